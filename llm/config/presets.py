"""Presets: named configurations, shipped with the package or saved by the user; one may `extends` another."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w

from llm.config.fields import quote
from llm.config.parse import check_or_raise, diff, parse_toml, read_mapping, read_overrides, to_mapping
from llm.config.schema import RunConfig
from llm.config.sizes import MEDIUM, SIZE_TABLE, Size, names_of, read_sizes
from llm.errors import ConfigError, Problem, UserError, WrongUse
from llm.files import expand_user, write_atomic
from llm.names import did_you_mean
from llm.reader import Malformed, read_text

FIRST_GROUP = "start here"
OWN_GROUP = "yours"
NAME_LENGTH = 64
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}")


@dataclass(frozen=True)
class Preset:
    """One entry of the list of presets. `problem` says why it cannot be used; empty if it can.

    `notes` is the comment at the head of its file: what it follows, what it needs, how it differs from its source.
    `sizes` are the names of its sizes, "medium" alone for most.
    """

    name: str
    path: Path
    purpose: str
    group: str
    mine: bool
    problem: str
    notes: str
    sizes: tuple[str, ...] = (MEDIUM,)


@dataclass(frozen=True)
class PresetFile:
    """A TOML file, its tables without `extends` and `size`, and its sizes with their problems."""

    path: Path
    text: str
    tables: dict[str, Any]
    sizes: Sequence[Size] = ()
    problems: Sequence[Problem] = ()


def default_home() -> Path:
    """The directory of runs, presets and prepared data: $LLM_WORKBENCH_HOME, else ~/llm-workbench."""
    home = expand_user(os.environ.get("LLM_WORKBENCH_HOME") or "~/llm-workbench")
    if home.parts[:1] == ("~",):
        raise WrongUse("this user has no home directory; set a folder with --home or $LLM_WORKBENCH_HOME.")
    return home


def shipped_directory() -> Path:
    """The presets that come with the package: inside it in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def check_name(name: str) -> None:
    """WrongUse unless `name` may name a run or a preset: safe as a file name everywhere, and on a command line."""
    if not NAME.fullmatch(name):
        rule = "use up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first"
        raise WrongUse(f"{quote(name)} is not a valid name; {rule}.")


def check_own_name(name: str) -> None:
    """WrongUse unless `name` may name a preset of the user."""
    check_name(name)
    if (shipped_directory() / f"{name}.toml").exists():
        raise WrongUse(f"{name} is the name of a shipped preset; choose another name.")


def load_preset(name: str, home: Path, overrides: Iterable[tuple[str, str]] = (), *, size: str = MEDIUM) -> RunConfig:
    """The configuration of a preset, by name or by the path of a .toml file, in one of its sizes, with dotted overrides
    applied.

    Raises WrongUse if there is no such preset or size, and ConfigError with all problems of files and overrides
    together.
    """
    config, problems = merge(read_files(find_preset(name, home), home), size)
    config, more = read_overrides(config, overrides)
    return check_or_raise(config, [*problems, *more])


def find_preset(name: str, home: Path) -> Path:
    """The file of a preset. Raises WrongUse if there is none of this name; the path of a .toml file is not checked."""
    if name.endswith(".toml"):
        return expand_user(name)
    known = [*preset_paths(shipped_directory()), *preset_paths(home / "presets")]
    for path in known:
        if path.stem == name and NAME.fullmatch(name):
            return path
    names = [path.stem for path in known]
    advice = did_you_mean(name, names) or f"there are {', '.join(names)}."
    raise WrongUse(f"there is no preset named {quote(name)}; {advice}")


def preset_sizes(name: str, home: Path) -> Sequence[Size]:
    """The sizes of a preset besides medium. Those of a preset that it extends are not its own: they change fields that
    it may have set."""
    return read_files(find_preset(name, home), home)[0].sizes


def preset_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)


def read_files(path: Path, home: Path, children: Sequence[Path] = ()) -> list[PresetFile]:
    """The file at `path`, the file it extends, and so on. `children` are files that extend the one at `path`."""
    files: list[PresetFile] = []
    seen = [*children]
    while True:
        if path in seen:
            circle = " → ".join(file.stem for file in (*seen, path))
            raise ConfigError([Problem("extends", f"these presets extend one another in a circle: {circle}")])
        text = read_preset_text(path)
        tables = parse_toml(text, path.name)
        parent = tables.pop("extends", None)
        files.append(PresetFile(path, text, tables, *read_sizes(tables.pop(SIZE_TABLE, {}))))
        if parent is None:
            return files
        if not isinstance(parent, str):
            message = f"must be the name of a preset, not {quote(parent)} (in {path.name})"
            raise ConfigError([Problem("extends", message)])
        seen.append(path)
        path = find_preset(parent, home)


def read_preset_text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise WrongUse(f"there is no file {path}; name a preset, or a .toml file that exists.") from None
    except Malformed as error:
        raise ConfigError([Problem(path.name, f"is not valid TOML: {error}")]) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def merge(files: Sequence[PresetFile], size: str = MEDIUM) -> tuple[RunConfig, list[Problem]]:
    """The configuration of the first file, in one of its sizes, on top of those it extends, and the problems of all
    files. Raises WrongUse if it has no such size.

    Purpose, group and sizes are not inherited.
    """
    config, problems = RunConfig(), []
    for file in reversed(files):
        config, found = read_mapping(file.tables, without_description(config))
        problems += in_file(file, [*file.problems, *found])
    if size == MEDIUM:
        return config, problems
    file = files[0]
    chosen = next((one for one in file.sizes if one.name == size), None)
    if chosen is None:
        sizes = f"its sizes are {', '.join(names_of(file.sizes))}" if file.sizes else f"its only size is {MEDIUM}"
        raise WrongUse(f"{file.path.stem} has no size {quote(size)}; {sizes}.")
    config, found = read_mapping(chosen.tables, config)
    return config, [*problems, *in_file(file, [replace(one, path=f"size.{size}.{one.path}") for one in found])]


def in_file(file: PresetFile, problems: Iterable[Problem]) -> list[Problem]:
    return [Problem(problem.path, f"{problem.message} (in {file.path.name})") for problem in problems]


def without_description(config: RunConfig) -> RunConfig:
    return replace(config, purpose="", group=OWN_GROUP)


def list_presets(home: Path) -> list[Preset]:
    """All presets, "start here" first and the user's last; one that cannot be used is listed with its problem."""
    shipped = [describe(path, home, mine=False) for path in preset_paths(shipped_directory())]
    names = {preset.name for preset in shipped}
    mine = [describe(path, home, mine=True) for path in preset_paths(home / "presets")]
    mine = [replace(preset, problem=name_is_taken(preset.path)) if preset.name in names else preset for preset in mine]
    return sorted(shipped + mine, key=lambda preset: (preset.mine, preset.group != FIRST_GROUP, preset.group))


def describe(path: Path, home: Path, *, mine: bool) -> Preset:
    """The list entry of the preset file at `path`."""
    try:
        files = read_files(path, home)
        config = check_or_raise(*merge(files))
        for size in files[0].sizes:
            check_or_raise(*merge(files, size.name))
    except UserError as error:
        group = OWN_GROUP if mine else FIRST_GROUP
        return Preset(path.stem, path, "", group, mine, "; ".join(str(error).splitlines()), "")
    group = OWN_GROUP if mine else config.group
    return Preset(
        path.stem, path, config.purpose, group, mine, "", head_comment(files[0].text), tuple(names_of(files[0].sizes))
    )


def name_is_taken(path: Path) -> str:
    return f"{path.stem} is also the name of a shipped preset, which is used instead; rename {path}"


def preset_notes(name: str, home: Path) -> str:
    """`Preset.notes` of one preset, found as `load_preset` finds it."""
    return head_comment(read_preset_text(find_preset(name, home)))


def head_comment(text: str) -> str:
    """The comment at the start of a file, each paragraph and each list item (`- `) on one line."""
    lines = [""]
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.removeprefix("#").strip()
        if not words or not lines[-1] or words.startswith("- "):
            lines.append(words)
        else:
            lines[-1] += f" {words}"
    return "\n".join(lines).strip()


def save_preset(home: Path, name: str, config: RunConfig, extends: str | None = None) -> Path:
    """Write `config` as a preset of the user and return its path; with `extends`, only the difference from that one."""
    check_own_name(name)
    path = home / "presets" / f"{name}.toml"
    config = replace(config, group=OWN_GROUP)
    tables: dict[str, Any] = to_mapping(config)
    if extends is not None:
        base = check_or_raise(*merge(read_files(find_preset(extends, home), home, [path])))
        tables = {"extends": extends} | to_tables(diff(without_description(base), config))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, tomli_w.dumps(tables).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another place with --home.") from error
    return path


def to_tables(differences: Iterable[tuple[str, Any, Any]]) -> dict[str, Any]:
    """Tables of the second value of each (dotted path, value, value)."""
    tables: dict[str, Any] = {}
    for path, _, value in differences:
        section, _, name = path.rpartition(".")
        table = tables.setdefault(section, {}) if section else tables
        table[name] = list(value) if isinstance(value, tuple) else value
    return tables
