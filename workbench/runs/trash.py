"""Deleted runs are kept in `<home>/trash` until it is emptied. Each lies there as `NAME@MILLISECONDS`, a whole run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.errors import WrongUse
from llm.files import directory_size, remove_directory
from llm.run import Run, free_name


@dataclass(frozen=True)
class Trashed:
    """A deleted run: what it was called, where it lies, when it was deleted (Unix seconds)."""

    name: str
    path: Path
    deleted: float
    size_bytes: int


def move_to_trash(home: Path, run: Run) -> Path:
    """Delete a run in a way that can be taken back. `RunBusy` while somebody trains it."""
    trash = home / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    target = trash / f"{run.name}@{int(time.time() * 1000)}"
    with run.lock():
        run.path.rename(target)
    return target


def list_trash(home: Path) -> list[Trashed]:
    """What lies in the trash, the last deleted first."""
    found = []
    for path in (home / "trash").glob("*@*"):
        name, _, stamp = path.name.rpartition("@")
        if path.is_dir() and stamp.isdecimal():
            found.append(Trashed(name, path, int(stamp) / 1000, directory_size(path)))
    return sorted(found, key=lambda item: -item.deleted)


def find_trashed(home: Path, name: str) -> Trashed:
    """The run called `name`, or lying under that name; the last deleted where there are several."""
    for item in list_trash(home):
        if name in (item.name, item.path.name):
            return item
    raise WrongUse(f"there is no run named {name} in {home / 'trash'}; see llm-workbench runs trash.")


def restore(home: Path, item: Trashed) -> Run:
    """Bring a run back, under its own name or, if that is taken by now, as NAME-restored-1."""
    runs = home / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    name = free_name(home, item.name, "-restored") if (runs / item.name).exists() else item.name
    item.path.rename(runs / name)
    return Run(runs / name)


def empty(items: Sequence[Trashed]) -> int:
    """Delete for good; returns the bytes that were freed."""
    for item in items:
        remove_directory(item.path)
    return sum(item.size_bytes for item in items)


def loss_of_emptying(items: Sequence[Trashed], size: str) -> str:
    """What goes for good, in one plain sentence."""
    names = ", ".join(item.name for item in items[:6]) + (f" and {len(items) - 6} more" if len(items) > 6 else "")
    runs = "1 run" if len(items) == 1 else f"{len(items)} runs"
    return f"This frees {size} and destroys {runs}, with checkpoints and records: {names}. It cannot be taken back."
