"""The settings of the workbench: `<home>/settings.toml`.

theme = "high-contrast"
redraws_per_second = 0.5     # of the charts; 0: automatic
smoothing = 0.9              # of the loss curve when a run is opened

[keys]                       # by the name that the Settings dialog shows
"train.save" = "w"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from llm.errors import UserError, reason_of
from llm.files import write_atomic
from llm.names import did_you_mean
from llm.reader import Malformed, parse_toml, read_text
from workbench.ui.themes import DEFAULT, THEMES

FILE = "settings.toml"
SET_ASIDE = "settings.toml.bad"
MOST_REDRAWS = 20.0
KEY = re.compile(r"[A-Za-z0-9_]+(\+[A-Za-z0-9_]+)*(,[A-Za-z0-9_]+(\+[A-Za-z0-9_]+)*)*")


@dataclass(frozen=True)
class Settings:
    """The settings. `keys`: binding id → keys, separated by commas."""

    theme: str = DEFAULT
    redraws_per_second: float = 0.0
    smoothing: float = 0.8
    keys: Mapping[str, str] = field(default_factory=dict)


def load_settings(home: Path) -> Settings:
    """The settings of `home`, the defaults where there are none. UserError names the line that is wrong."""
    path = home / FILE
    try:
        text = read_text(path)
        record = parse_toml(text)
    except FileNotFoundError:
        return Settings()
    except (OSError, Malformed) as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error)}); fix it. The defaults are used until then."
        ) from error
    for name, value in record.items():
        problem = problem_with(name, value)
        if problem:
            line = line_of(text, wrong_key(value) if name == "keys" else name)
            raise UserError(f"{path} line {line}: {name} {problem}; fix it. The defaults are used until then.")
    numbers = {name: float(record[name]) for name in ("redraws_per_second", "smoothing") if name in record}
    values: dict[str, Any] = record | numbers
    return Settings(**values)


def problem_with(name: str, value: Any) -> str:
    """What is wrong with a setting, or ""."""
    names = [one.name for one in fields(Settings)]
    if name not in names:
        return f"is not a setting; {did_you_mean(name, names) or 'there are ' + ', '.join(names)}".rstrip(".?")
    if name == "theme":
        themes = [theme.name for theme in THEMES]
        return "" if value in themes else f"must be one of {', '.join(themes)}"
    if name == "keys":
        return problem_with_keys(value)
    high = MOST_REDRAWS if name == "redraws_per_second" else 0.999
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if number and 0 <= value <= high else f"must be a number from 0 to {high:g}"


def problem_with_keys(value: Any) -> str:
    if not isinstance(value, dict):
        return "must be a table of binding ids and keys"
    wrong = wrong_key(value)
    if wrong == "keys":
        return ""
    return f"has {value[wrong]!r} for {wrong}, which is not the name of a key (such as s, ctrl+s, f5, full_stop)"


def wrong_key(value: Any) -> str:
    """The binding id whose key is none; "keys" itself where there is no such id."""
    entries = value.items() if isinstance(value, dict) else ()
    return next((name for name, key in entries if not isinstance(key, str) or not KEY.fullmatch(key)), "keys")


def line_of(text: str, name: str) -> int:
    """The line that sets `name`, counted from 1."""
    pattern = re.compile(rf"\s*\[?\s*[\"']?{re.escape(name)}\b")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), 1)


def save_settings(home: Path, settings: Settings) -> None:
    """Write the settings. A file that could not be read is renamed to settings.toml.bad."""
    path = home / FILE
    try:
        load_settings(home)
    except UserError:
        path.replace(home / SET_ASIDE)
    record = {one.name: getattr(settings, one.name) for one in fields(Settings)}
    write_atomic(path, tomli_w.dumps(record | {"keys": dict(settings.keys)}).encode())
