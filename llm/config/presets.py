"""Presets: configurations by name, shipped with the package or a person's own, each perhaps `extends` another."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w

from llm.config.fields import shown
from llm.config.parse import checked, diff, parse_toml, read_mapping, read_overrides, to_mapping
from llm.config.schema import RunConfig
from llm.errors import ConfigError, Problem, UserError, WrongUse
from llm.files import write_atomic
from llm.names import did_you_mean
from llm.reader import Malformed, read_text

FIRST_GROUP = "start here"
OWN_GROUP = "yours"
NAME_LENGTH = 64
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}")


@dataclass(frozen=True)
class Preset:
    """One entry of the list. `problem` says in words why it cannot be used; empty where it can.

    `notes` is the comment at the head of its file: what it follows, what it needs, where it differs on purpose.
    """

    name: str
    path: Path
    purpose: str
    group: str
    mine: bool
    problem: str
    notes: str


def default_home() -> Path:
    """Where runs, presets and prepared data live: $LLM_WORKBENCH_HOME, else ~/llm-workbench."""
    return Path(os.environ.get("LLM_WORKBENCH_HOME") or "~/llm-workbench").expanduser()


def check_name(name: str) -> None:
    """WrongUse unless `name` may name a run or a preset: safe as a file name everywhere, and on a command line."""
    if not NAME.fullmatch(name):
        rule = "use up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first"
        raise WrongUse(f"{shown(name)} cannot be a name; {rule}.")


def check_own_name(name: str) -> None:
    """WrongUse unless a person may call a preset of their own so."""
    check_name(name)
    if (shipped_directory() / f"{name}.toml").exists():
        raise WrongUse(f"{name} is the name of a shipped preset; choose another name.")


def shipped_directory() -> Path:
    """The presets that come with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def list_presets(home: Path) -> list[Preset]:
    """All presets, the group to start with first, a person's own last; broken ones are listed with their problem."""
    shipped = [_described(path, home, mine=False) for path in _files(shipped_directory())]
    names = {preset.name for preset in shipped}
    mine = [_described(path, home, mine=True) for path in _files(home / "presets")]
    mine = [replace(preset, problem=_shadowed(preset.path)) if preset.name in names else preset for preset in mine]
    return sorted(shipped + mine, key=lambda preset: (preset.mine, preset.group != FIRST_GROUP, preset.group))


def load_preset(name: str, home: Path, overrides: Iterable[tuple[str, str]] = ()) -> RunConfig:
    """The configuration of a preset, by name or as the path of a .toml file, with dotted overrides on top.

    Raises WrongUse where there is no such preset and ConfigError with every problem of file and overrides together.
    """
    config, problems = _read(_find(name, home), home, ())
    config, more = read_overrides(config, overrides)
    return checked(config, [*problems, *more])


def preset_notes(name: str, home: Path) -> str:
    """`Preset.notes` of one preset, found as `load_preset` finds it."""
    return _head_comment(_text(_find(name, home)))


def save_preset(home: Path, name: str, config: RunConfig, extends: str | None = None) -> Path:
    """Write `config` as a person's own preset; with `extends`, only what differs from that preset. Returns its path."""
    check_own_name(name)
    config = replace(config, group=OWN_GROUP)
    tables: dict[str, Any] = to_mapping(config)
    if extends is not None:
        base, problems = _read(_find(extends, home), home, (home / "presets" / f"{name}.toml",))
        checked(base, problems)
        tables = {"extends": extends} | _nested(diff(_unnamed(base), config))
    path = home / "presets" / f"{name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, tomli_w.dumps(tables).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another place with --home.") from error
    return path


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)


def _find(name: str, home: Path) -> Path:
    if name.endswith(".toml"):
        return Path(name).expanduser()
    for folder in (shipped_directory(), home / "presets"):
        path = folder / f"{name}.toml"
        if NAME.fullmatch(name) and path.is_file():
            return path
    known = [path.stem for folder in (shipped_directory(), home / "presets") for path in _files(folder)]
    advice = did_you_mean(name, known) or f"there are {', '.join(known)}."
    raise WrongUse(f"there is no preset named {shown(name)}; {advice}")


def _read(path: Path, home: Path, readers: tuple[Path, ...]) -> tuple[RunConfig, list[Problem]]:
    """What the file at `path` describes; `readers` are the files that extend it, to notice a circle."""
    if path in readers:
        circle = " → ".join(reader.stem for reader in (*readers, path))
        raise ConfigError([Problem("extends", f"these presets extend one another in a circle: {circle}")])
    tables = parse_toml(_text(path), path.name)
    parent = tables.pop("extends", None)
    if parent is None:
        return _with_file_name(read_mapping(tables, RunConfig()), path)
    if not isinstance(parent, str):
        message = f"must be the name of a preset, not {shown(parent)} (in {path.name})"
        return _unnamed(RunConfig()), [Problem("extends", message)]
    base, problems = _read(_find(parent, home), home, (*readers, path))
    config, more = _with_file_name(read_mapping(tables, _unnamed(base)), path)
    return config, [*problems, *more]


def _with_file_name(read: tuple[RunConfig, list[Problem]], path: Path) -> tuple[RunConfig, list[Problem]]:
    config, problems = read
    return config, [Problem(problem.path, f"{problem.message} (in {path.name})") for problem in problems]


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise WrongUse(f"there is no file {path}; name a preset, or a .toml file that exists.") from None
    except Malformed as error:
        raise ConfigError([Problem(path.name, f"this is not TOML: {error}")]) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions.") from error


def _unnamed(base: RunConfig) -> RunConfig:
    """`base` without what describes that preset alone."""
    return replace(base, purpose="", group=OWN_GROUP)


def _described(path: Path, home: Path, *, mine: bool) -> Preset:
    try:
        config, problems = _read(path, home, ())
        checked(config, problems)
    except UserError as error:
        group = OWN_GROUP if mine else FIRST_GROUP
        return Preset(path.stem, path, "", group, mine, "; ".join(str(error).splitlines()), "")
    group = OWN_GROUP if mine else config.group
    return Preset(path.stem, path, config.purpose, group, mine, "", _head_comment(_text(path)))


def _head_comment(text: str) -> str:
    """The comment a file begins with, each paragraph and each item of a list (`- `) on one line."""
    lines = [""]
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.removeprefix("#").strip()
        if not words or not lines[-1] or words.startswith("- "):
            lines.append(words)
        else:
            lines[-1] += f" {words}"
    return "\n".join(lines).strip()


def _shadowed(path: Path) -> str:
    return f"{path.stem} is also the name of a shipped preset, which is the one used; rename {path}"


def _nested(differences: Iterable[tuple[str, Any, Any]]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for path, _, value in differences:
        section, _, name = path.rpartition(".")
        table = tables.setdefault(section, {}) if section else tables
        table[name] = list(value) if isinstance(value, tuple) else value
    return tables
