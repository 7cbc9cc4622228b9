"""`presets`: list the presets, or print one."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from llm.config import list_presets, load_preset, preset_notes, to_mapping, to_toml
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table
from workbench.text import clean


def register(subparsers: Any) -> None:
    shown = add_command(subparsers, "presets", "list the presets, or print all fields of one", presets, json=True)
    shown.add_argument("preset", nargs="?", metavar="PRESET", help="print all fields of this preset")


def presets(options: argparse.Namespace) -> int:
    """Print the list of presets, or one preset as TOML."""
    if options.preset:
        config = load_preset(options.preset, options.home)
        if options.json:
            print_json({"name": options.preset} | to_mapping(config))
        else:
            print(as_comment(preset_notes(options.preset, options.home)) + to_toml(config), end="")
        return 0
    found = list_presets(options.home)
    if options.json:
        print_json([vars(preset) | {"path": str(preset.path)} for preset in found])
    else:
        rows = [(preset.name, preset.group, preset.problem or preset.purpose) for preset in found]
        print_table(("name", "group", "purpose"), rows)
    return 0


def as_comment(notes: str) -> str:
    """The notes of a preset as TOML comments; "" where there are none."""
    lines = [f"# {part}".rstrip() for line in clean(notes).splitlines() for part in textwrap.wrap(line, 116) or [""]]
    return "\n".join([*lines, "", ""]) if lines else ""
