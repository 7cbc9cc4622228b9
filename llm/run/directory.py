"""Run directories: create, open, list and describe runs."""

from __future__ import annotations

import os
import platform
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import tomli_w

from llm.config import NAME_LENGTH, RunConfig, check_name, defaults_of_0_1_0, diff, from_mapping, to_mapping
from llm.data.text.datasets import CATALOG
from llm.data.text.urls import is_url
from llm.errors import ConfigError, Problem, UserError, WrongUse, reason_of
from llm.events import Event, Finished, is_unix_time
from llm.files import expand_user, is_utf8, read_json, remove_directory, write_atomic, write_json
from llm.names import did_you_mean
from llm.reader import Malformed, parse_toml, read_text
from llm.run.checkpoints import MAX_STEP_DIGITS, CheckpointInfo, damaged_checkpoints, list_checkpoints
from llm.run.lock import Holder, RunLock, holder_of
from llm.run.log import (
    CommandTail,
    EventLog,
    EventTail,
    last_event_of,
    last_events,
    newest_lines,
    parse_event,
    paused_after,
    read_events,
    send_command,
)
from llm.run.parts import check_parts

FORMAT = 1
TABLE_HEADER = re.compile(r"^\[.*", re.MULTILINE)
FieldTypes = dict[str, type | tuple[type, ...]]
HEADER: FieldTypes = {"format": int, "id": str, "created": (int, float), "parent": str, "parent_id": str, "size": str}
"""Fields of the [run] table of `run.toml` that are read."""
META: FieldTypes = {"pins": list, "notes": str, "tags": list, "prompts": list}
META_ITEMS: FieldTypes = {"pins": int, "tags": str, "prompts": str}
"""Fields of `meta.json`, and the types of the items of its lists."""
RESERVED = frozenset({"export", "delete", "trash", "restore", "empty-trash"})  # subcommands of `llm-workbench runs`
NUMBER_LENGTH = len("-999999")  # characters of a name that are left for its number
ATTEMPTS = 100  # names to try while other processes take them
SHORT_WINDOW = 4096  # bytes at the end of a log
CORPUS_NAMES = frozenset({"stories", "pylib", "dialogues"} | {dataset.name for dataset in CATALOG})


@dataclass(frozen=True)
class RunStatus:
    """The status of a run: running, paused, finished, stopped, failed, crashed (ended without an event), new (never
    trained), or imported (a model of another program)."""

    name: str
    holder: Holder | None = None

    @property
    def is_running(self) -> bool:
        return self.holder is not None


class NameTaken(WrongUse):
    """A run with that name already exists."""


class Run:
    """A run directory. The constructor reads nothing; every method reads the current files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @classmethod
    def create(
        cls,
        home: Path,
        name: str,
        config: RunConfig,
        *,
        parent: str = "",
        extra: dict[str, Any] | None = None,
        fill: Callable[[Run], object] = lambda run: None,
    ) -> Run:
        """Create `<home>/runs/<name>` with its frozen configuration; `parent` is `RUN@STEP` for a fork.

        `fill` adds files before `run.toml`, which makes the directory a run, is written. On an error the directory is
        removed. `extra` are more fields of the [run] table. Paths in the configuration become absolute, so that the run
        can be resumed from any directory. `NameTaken` if the run exists, `UserError` if it cannot be created.
        """
        check_run_name(name)
        config = with_absolute_paths(config)
        run = cls(home / "runs" / name)
        try:
            run.path.mkdir(parents=True)
        except FileExistsError:
            raise NameTaken(f"a run named {name} exists already; choose another name, or resume it.") from None
        except OSError as error:
            raise UserError(
                f"{run.path} cannot be created ({error.strerror}); choose another folder with --home."
            ) from error
        header = {"format": FORMAT, "id": secrets.token_hex(8), "created": time.time(), "parent": parent}
        run_fields = {"run": header | {"versions": versions(), "host": socket.gethostname()} | (extra or {})}
        try:
            fill(run)
            content = tomli_w.dumps(to_mapping(config) | run_fields)
            write_atomic(run.path / "run.toml", content.encode())
        except BaseException:
            remove_directory(run.path)
            raise
        return run

    @classmethod
    def create_numbered(
        cls, home: Path, stem: str, config: RunConfig, *, name: str = "", suffix: str = "", **more: Any
    ) -> Run:
        """`create` under `name`, or without one under the next `free_name` of `stem` and `suffix`; tries again if
        another process takes that name first."""
        if name:
            return cls.create(home, name, config, **more)
        for _ in range(ATTEMPTS):
            with suppress(NameTaken):
                return cls.create(home, free_name(home, stem, suffix), config, **more)
        raise UserError(f"no free name found for a run of {stem} in {home / 'runs'}; choose a name.")

    @classmethod
    def open(cls, home: Path, name: str) -> Run:
        """The run named `name`, or at the path `name` if it contains a slash. `WrongUse` if there is none, `UserError`
        if it is damaged."""
        path = expand_user(name) if "/" in name else home / "runs" / name
        if os.path.lexists(path / "run.toml"):
            check_parts(path)
            return cls(path)
        if (path / "checkpoints").is_dir():
            raise UserError(f"{path} has lost its run.toml, without which it is not a run; restore it from a backup.")
        names = [run.name for run in list_runs(home)]
        advice = did_you_mean(name, names) or ("see llm-workbench runs." if names else "train one first.")
        raise WrongUse(f"there is no run named {name} in {home / 'runs'}; {advice}")

    # --- run.toml, which never changes

    def config(self) -> RunConfig:
        mapping = self._toml()
        mapping.pop("run", None)
        return from_mapping(mapping, defaults_of_0_1_0())

    def info(self) -> dict[str, Any]:
        """Format, id, creation time, parent, versions and host from `run.toml`."""
        return dict(self._toml(run_table).get("run", {}))

    def _toml(self, select: Callable[[str], str] = lambda text: text) -> dict[str, Any]:
        """`run.toml`, or the part of its text that `select` returns."""
        path = self.path / "run.toml"
        try:
            mapping = parse_toml(select(read_text(path)))
        except (OSError, Malformed) as error:
            raise UserError(f"{path} cannot be read ({reason_of(error)}); restore it from a backup.") from error
        header = mapping.get("run", {})
        wrong = type_error(header, HEADER)
        if not wrong and not is_unix_time(header.get("created", 0)):
            wrong = f"created is {header['created']!r:.40}"
        if wrong:
            raise UserError(f"{path} is damaged ({wrong}); restore it from a backup.")
        if header.get("format", 0) > FORMAT:
            raise UserError(f"{path} was written by a newer llm-workbench; upgrade with pip install -U llm-workbench.")
        return mapping

    # --- meta.json, which may change

    def meta(self) -> dict[str, Any]:
        """Pins, notes and tags."""
        path = self.path / "meta.json"
        stored = read_json(path) if path.exists() else {}
        if wrong := type_error(stored, META, META_ITEMS):
            raise UserError(f"{path} is damaged ({wrong}); fix it, or delete it to continue without pins and notes.")
        return {"pins": [], "notes": "", "tags": []} | stored

    def update_meta(self, **changes: Any) -> None:
        write_json(self.path / "meta.json", self.meta() | changes)

    # --- the lock

    def lock(self) -> RunLock:
        """The lock that a trainer holds, a context manager: entering raises `RunBusy` where another process trains the
        run. UserError where a part of the run directory is a link or a special file."""
        check_parts(self.path)
        return RunLock(self.path / "lock")

    def holder(self) -> Holder | None:
        """The process that trains the run, or None."""
        return holder_of(self.path / "lock")

    def status(self) -> RunStatus:
        log, holder = self.path / "events.jsonl", self.holder()
        if holder is not None:
            return RunStatus("paused" if paused_after(last_events(log)) else "running", holder)
        lines = chain(newest_lines(log, SHORT_WINDOW), newest_lines(log))  # the short window nearly always has one
        last = next((event for line in lines if (event := parse_event(line)) is not None), None)
        last = last or last_event_of(log, Event)  # none in these windows: it is followed by damaged lines
        if last is None:
            return RunStatus("new")
        return RunStatus(last.status if isinstance(last, Finished) else "crashed")

    # --- events and commands

    def log(self) -> EventLog:
        """The event log, opened for writing by the holder of the lock."""
        return EventLog(self.path / "events.jsonl")

    def events(self) -> Iterator[Event]:
        return read_events(self.path / "events.jsonl")

    def tail(self) -> EventTail:
        return EventTail(self.path / "events.jsonl")

    def send(self, command: str, **arguments: Any) -> str:
        """Send a command to the trainer; returns its id, which the answering event repeats."""
        return send_command(self.path / "commands.jsonl", command, arguments)

    def commands(self) -> CommandTail:
        return CommandTail(self.path / "commands.jsonl")

    # --- checkpoints

    @property
    def checkpoint_directory(self) -> Path:
        return self.path / "checkpoints"

    def damaged_checkpoints(self) -> dict[int, str]:
        """Step → reason, for the checkpoints with a damaged manifest, which `checkpoints` omits."""
        return damaged_checkpoints(self.checkpoint_directory)

    def checkpoints(self) -> list[CheckpointInfo]:
        """The published checkpoints, oldest first."""
        return list_checkpoints(self.checkpoint_directory, self.meta()["pins"])

    @property
    def kept_directory(self) -> Path:
        """Folder of the weights saved from a chat with a model in training; never resumed from, never pruned."""
        return self.path / "kept"

    def kept(self) -> list[CheckpointInfo]:
        """The weights saved from a chat with a model in training, oldest first."""
        return list_checkpoints(self.kept_directory)

    def checkpoint(self, which: str = "last") -> CheckpointInfo:
        """The checkpoint "last", "best" (the last one if none was evaluated) or of a step, which may also be that of
        weights saved from a chat. `WrongUse` if there is no such checkpoint, `UserError` if there is none at all or it
        is damaged.
        """
        infos = self.checkpoints()
        if which.isdecimal():
            found = next((info for info in (*infos, *self.kept()) if which == str(info.step)), None)
            if found is not None:
                return found
        damaged = self.damaged_checkpoints()
        if which.isdecimal() and len(which) <= MAX_STEP_DIGITS and int(which) in damaged:
            raise UserError(damaged[int(which)])
        if not infos and damaged:
            raise UserError(f"all checkpoints of run {self.name} are damaged: {damaged[max(damaged)]}")
        if not infos:
            raise UserError(f"run {self.name} has no checkpoint yet; train it until the first save.")
        if which == "last":
            return infos[-1]
        if which == "best":
            return next((info for info in infos if info.best), infos[-1])
        steps = ", ".join(str(info.step) for info in infos)
        raise WrongUse(f"run {self.name} has no checkpoint {which}; it has last, best and steps {steps}.")


def run_table(text: str) -> str:
    """The [run] table of a `run.toml`, which `Run.create` writes last; the whole text if another table follows it.
    Parsing the table alone takes a tenth of the time."""
    start = text.rfind("\n[run]\n")
    table = text[start + 1 :] if start >= 0 else ""
    return table if table and all(line.startswith(("[run]", "[run.")) for line in TABLE_HEADER.findall(table)) else text


def type_error(stored: Any, types: FieldTypes, item_types: FieldTypes | None = None) -> str:
    """A description of the first field of `stored` that is not of its type in `types`, or a list with an item that is
    not of its type in `item_types`; "" if there is none."""
    if not isinstance(stored, dict):
        return f"it is not a table but {stored!r:.40}"
    for name, field_type in types.items():
        value = stored.get(name)
        if name in stored and not isinstance(value, field_type):
            return f"{name} is {value!r:.40}"
        item_type = (item_types or {}).get(name)
        if value and item_type is not None and not all(isinstance(item, item_type) for item in value):
            return f"{name} is {value!r:.40}"
    return ""


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """`config` with relative paths made absolute. ConfigError where one is then not UTF-8 text, as TOML needs."""
    data = replace(config.data, corpus=to_absolute(config.data.corpus), validation=to_absolute(config.data.validation))
    tokenizer = replace(config.tokenizer, path=to_absolute(config.tokenizer.path))
    core = replace(config.evaluate, core_path=to_absolute(config.evaluate.core_path))
    made = replace(config, data=data, tokenizer=tokenizer, evaluate=core)
    reason = "is in a folder with a name that is not UTF-8 text; rename it, or move the file"
    changed = ((path, value) for path, _, value in diff(config, made))
    if problems := [Problem(path, reason) for path, value in changed if not is_utf8(value)]:
        raise ConfigError(problems)
    return made


def to_absolute(text: str) -> str:
    """The absolute path of `text`; `text` itself where it is empty, a URL, or the name of a corpus or dataset."""
    path = expand_user(text)
    is_path = "/" in text or path.suffix or any(sign in text for sign in "*?[") or path.exists()
    is_name = text in CORPUS_NAMES or is_url(text) or text.startswith("hf:")
    return str(path.absolute()) if text and is_path and not is_name else text


def versions() -> dict[str, str]:
    """Versions of Python and of the main packages."""
    packages = ("llm-workbench", "torch", "numpy")
    known = {name: version for name in packages if (version := installed_version(name))}
    return {"python": platform.python_version()} | known


def installed_version(package: str) -> str:
    from importlib import metadata  # slow to import

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def list_runs(home: Path) -> list[Run]:
    """All runs below `home`, the most recently modified first. Runs deleted during the listing are skipped."""
    found: list[tuple[float, Path]] = []
    for path in (home / "runs").glob("*/run.toml"):
        with suppress(FileNotFoundError):
            found.append((-path.parent.stat().st_mtime, path.parent))
    return [Run(path) for _, path in sorted(found)]


def check_run_name(name: str) -> None:
    """`WrongUse` for an invalid name of a run."""
    check_name(name)
    if name in RESERVED:
        raise WrongUse(f"a run cannot be named {name}: llm-workbench runs {name} is a command.")


def free_name(home: Path, stem: str, suffix: str = "") -> str:
    """`stem` + `suffix` + `-N`, with N one above the highest number in use; a long stem is cut to fit."""
    stem = stem[: NAME_LENGTH - len(suffix) - NUMBER_LENGTH] + suffix
    pattern = re.compile(re.escape(stem) + r"-(\d+)")
    taken = [int(match[1]) for path in (home / "runs").glob("*") if (match := pattern.fullmatch(path.name))]
    return f"{stem}-{max(taken, default=0) + 1}"


def find_checkpoint(
    home: Path, reference: str, on_damage: Callable[[str], object] = lambda message: None
) -> tuple[Run, CheckpointInfo]:
    """The run and checkpoint of `reference`: `RUN`, `RUN@last`, `RUN@best` or `RUN@STEP`. `on_damage` receives a
    message for each newer checkpoint that is skipped because its manifest is damaged."""
    name, _, which = reference.rpartition("@") if "@" in reference else (reference, "", "last")
    run = Run.open(home, name)
    info = run.checkpoint(which or "last")
    for step, reason in sorted(run.damaged_checkpoints().items()):
        if step > info.step and not which.isdecimal():
            on_damage(f"skipping checkpoint {step}: {reason}")
    return run, info
