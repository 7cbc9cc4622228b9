"""Deleted runs. `<home>/trash` holds each run directory as `NAME@MILLISECONDS` until the trash is emptied."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.errors import WrongUse
from llm.files import directory_size, remove_directory
from llm.run import Run, free_name
from workbench.formatting import format_size, plural


@dataclass(frozen=True)
class Trashed:
    """A deleted run: its name, its path in the trash, and when it was deleted (Unix seconds)."""

    name: str
    path: Path
    deleted: float
    size_bytes: int


def move_to_trash(home: Path, run: Run) -> Path:
    """Move a run to the trash. Raises `RunBusy` while it is in training."""
    trash = home / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    target = trash / f"{run.name}@{int(time.time() * 1000)}"
    with run.lock():
        run.path.rename(target)
    return target


def list_trash(home: Path) -> list[Trashed]:
    """The runs in the trash, the last deleted first."""
    found = []
    for path in (home / "trash").glob("*@*"):
        name, _, stamp = path.name.rpartition("@")
        if path.is_dir() and stamp.isdecimal():
            found.append(Trashed(name, path, int(stamp) / 1000, directory_size(path)))
    return sorted(found, key=lambda item: -item.deleted)


def find_trashed(home: Path, name: str) -> Trashed:
    """The deleted run of this name, or of this directory name; the last deleted of several."""
    for item in list_trash(home):
        if name in (item.name, item.path.name):
            return item
    raise WrongUse(f"there is no run named {name} in {home / 'trash'}; see llm-workbench runs trash.")


def restore(home: Path, item: Trashed) -> Run:
    """Restore a run under its own name or, if that is taken, as NAME-restored-1."""
    runs = home / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    name = free_name(home, item.name, "-restored") if (runs / item.name).exists() else item.name
    item.path.rename(runs / name)
    return Run(runs / name)


def empty(items: Sequence[Trashed]) -> int:
    """Delete runs permanently; returns the number of bytes freed."""
    for item in items:
        remove_directory(item.path)
    return sum(item.size_bytes for item in items)


def describe_emptying(items: Sequence[Trashed]) -> str:
    """What is lost with these runs, in one sentence."""
    names = ", ".join(item.name for item in items[:6]) + (f" and {len(items) - 6} more" if len(items) > 6 else "")
    size = format_size(sum(item.size_bytes for item in items))
    runs = plural(len(items), "run")
    return f"This frees {size} and permanently deletes {runs} with all checkpoints: {names}. It cannot be undone."
