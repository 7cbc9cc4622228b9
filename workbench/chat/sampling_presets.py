"""Sampling presets in `<home>/knobs.toml`: a table per name with the values that differ from the defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from llm.config import DecodeConfig, check_name
from llm.errors import UserError, reason_of
from llm.files import write_atomic
from llm.reader import Malformed, load_toml
from workbench.chat.conversation import params_from, params_to_mapping

FILE = "knobs.toml"


def load_sampling_presets(home: Path) -> dict[str, DecodeConfig]:
    """All presets by name; empty without a file. Raises UserError."""
    path = home / FILE
    try:
        tables = load_toml(path)
    except FileNotFoundError:
        return {}
    except (OSError, Malformed) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}); correct or delete it.") from error
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name!r} is outside a table; put it below a line like [calm].")
        try:
            found[name] = params_from(table)
        except UserError as error:
            raise UserError(f"{path}, [{name}]: {error}") from error
    return found


def save_sampling_preset(home: Path, name: str, params: DecodeConfig | None) -> None:
    """Save `params` without their seed as `name`; None deletes the preset. Raises UserError."""
    check_name(name)
    presets = load_sampling_presets(home) | ({name: params} if params is not None else {})
    if params is None:
        presets.pop(name, None)
    tables = {one: changed_values(preset) for one, preset in presets.items()}
    try:
        write_atomic(home / FILE, tomli_w.dumps(tables).encode())
    except OSError as error:
        raise UserError(f"{home / FILE} cannot be written ({error.strerror}); nothing was changed.") from error


def changed_values(params: DecodeConfig) -> dict[str, Any]:
    """The values that differ from the defaults, without the seed."""
    defaults = params_to_mapping(DecodeConfig())
    return {
        name: value for name, value in params_to_mapping(params).items() if name != "seed" and value != defaults[name]
    }


def summary(params: DecodeConfig) -> str:
    """The values that differ from the defaults, in one line."""
    shown = {name: "on" if value is True else value for name, value in changed_values(params).items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items()) or "defaults"


def with_seed_of(preset: DecodeConfig, params: DecodeConfig) -> DecodeConfig:
    """The preset with the seed of `params`."""
    return replace(preset, seed=params.seed)
