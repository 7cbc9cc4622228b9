"""Check that a run directory holds only regular files and folders.

A run copied from somebody else may hold links (writes would go outside of it), FIFOs (which block a reader for ever) or
devices. Each is refused by name before anything is opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llm.errors import UserError

FILES = ("run.toml", "meta.json", "events.jsonl", "commands.jsonl", "lock", "crash.txt", "process.log")
FOLDERS = ("tokenizer", "base", "checkpoints", "live", "reference", "kept", ".cache")
DEPTH = 2  # folders below `checkpoints/`, `live/`, `kept/`: a checkpoint, and its files


def check_parts(run: Path) -> None:
    """UserError for the first part of a run directory that is a link, or not a file or folder as expected.

    The run directory itself may be a link. OSError where a folder is not readable.
    """
    for name in FILES:
        mode = mode_of(f"{run}/{name}")
        if mode and not stat.S_ISREG(mode):
            raise refusal(f"{run}/{name}", mode, "a file")
    for name in FOLDERS:
        mode = mode_of(f"{run}/{name}")
        if mode and not stat.S_ISDIR(mode):
            raise refusal(f"{run}/{name}", mode, "a folder")
        if mode:
            check_folder(f"{run}/{name}", DEPTH)


def check_folder(folder: str, depth: int) -> None:
    """UserError if `folder` contains a link, a FIFO or a device, down to `depth` levels."""
    for entry in entries_of(folder):  # scandir knows the types without a call of `stat`
        if entry.is_dir(follow_symlinks=False):
            if depth > 1:
                check_folder(entry.path, depth - 1)
        elif not entry.is_file(follow_symlinks=False) and (mode := mode_of(entry.path)):
            raise refusal(entry.path, mode, "a file or folder")


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """The entries of `folder`; empty if it was just pruned, or renamed when published."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def mode_of(path: str) -> int:
    """The mode of `path` itself, without following links; 0 where it does not exist."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def refusal(path: str, mode: int, expected: str) -> UserError:
    kinds = (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
    )
    kind = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
    return UserError(f"{path} is {kind}, but must be {expected}; replace it with {expected}, or delete it.")
