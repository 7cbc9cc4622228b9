"""Named sets of decoding knobs, in `<home>/knobs.toml`: a table per name, holding what differs from the defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tomli_w

from llm.config import DecodeConfig, check_name
from llm.errors import UserError
from llm.files import write_atomic
from llm.reader import Malformed, load_toml
from workbench.chat.conversation import knob_mapping, knobs_from

FILE = "knobs.toml"


def load_knob_presets(home: Path) -> dict[str, DecodeConfig]:
    """All of them by name; none where there is no file. UserError names what is wrong in it."""
    path = home / FILE
    try:
        tables = load_toml(path)
    except FileNotFoundError:
        return {}
    except (OSError, Malformed) as error:
        raise UserError(f"{path} cannot be read ({error}); correct it, or delete it.") from error
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path} has {name!r} outside a table; put it below a line like [calm].")
        try:
            found[name] = knobs_from(table)
        except UserError as error:
            raise UserError(f"{path}, [{name}]: {error}") from error
    return found


def save_knob_preset(home: Path, name: str, knobs: DecodeConfig | None) -> None:
    """Keep `knobs`, without their seed, under `name`; None forgets it. Raises UserError."""
    check_name(name)
    presets = load_knob_presets(home) | ({name: knobs} if knobs is not None else {})
    if knobs is None:
        presets.pop(name, None)
    usual = knob_mapping(DecodeConfig())
    tables = {
        one: {knob: value for knob, value in knob_mapping(kept).items() if value != usual[knob] and knob != "seed"}
        for one, kept in presets.items()
    }
    try:
        write_atomic(home / FILE, tomli_w.dumps(tables).encode())
    except OSError as error:
        raise UserError(f"{home / FILE} cannot be written ({error.strerror}); nothing was changed.") from error


def summary(knobs: DecodeConfig) -> str:
    """What differs from the defaults, in one line."""
    usual = knob_mapping(DecodeConfig())
    changed = {knob: value for knob, value in knob_mapping(knobs).items() if value != usual[knob] and knob != "seed"}
    shown = {knob: "on" if value is True else value for knob, value in changed.items()}
    return ", ".join(f"{knob.replace('_', ' ')} {value}" for knob, value in shown.items()) or "the defaults"


def with_seed_of(preset: DecodeConfig, knobs: DecodeConfig) -> DecodeConfig:
    """The preset as it is applied: the seed stays."""
    return replace(preset, seed=knobs.seed)
