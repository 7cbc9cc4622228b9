"""Named sets of decoding knobs, in `<home>/knobs.toml`: a table per name, holding what differs from the defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tomli_w

from llm.config import DecodeConfig, check_name
from llm.errors import UserError
from llm.files import write_atomic
from llm.reader import Malformed, load_toml
from workbench.chat.conversation import params_from, params_to_mapping

FILE = "knobs.toml"


def load_sampling_presets(home: Path) -> dict[str, DecodeConfig]:
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
            found[name] = params_from(table)
        except UserError as error:
            raise UserError(f"{path}, [{name}]: {error}") from error
    return found


def save_sampling_preset(home: Path, name: str, params: DecodeConfig | None) -> None:
    """Keep `params`, without their seed, under `name`; None forgets it. Raises UserError."""
    check_name(name)
    presets = load_sampling_presets(home) | ({name: params} if params is not None else {})
    if params is None:
        presets.pop(name, None)
    usual = params_to_mapping(DecodeConfig())
    tables = {
        one: {name: value for name, value in params_to_mapping(kept).items() if value != usual[name] and name != "seed"}
        for one, kept in presets.items()
    }
    try:
        write_atomic(home / FILE, tomli_w.dumps(tables).encode())
    except OSError as error:
        raise UserError(f"{home / FILE} cannot be written ({error.strerror}); nothing was changed.") from error


def summary(params: DecodeConfig) -> str:
    """What differs from the defaults, in one line."""
    usual = params_to_mapping(DecodeConfig())
    changed = {
        name: value for name, value in params_to_mapping(params).items() if value != usual[name] and name != "seed"
    }
    shown = {name: "on" if value is True else value for name, value in changed.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items()) or "the defaults"


def with_seed_of(preset: DecodeConfig, params: DecodeConfig) -> DecodeConfig:
    """The preset as it is applied: the seed stays."""
    return replace(preset, seed=params.seed)
