"""A temporary folder that is renamed to its final name when it is complete.

Two processes may make the same folder at once: the first to finish wins. A process holds a lock (flock) on its
temporary folder, which distinguishes folders in use from leftovers of interrupted processes; these are removed. One
that holds a record of unfinished work is kept for STALE_SECONDS, and used by the next process that makes the same
folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm.errors import UserError
from llm.file_locks import try_lock
from llm.files import STAGING, staging_path, sync_directory, sync_file

UNFINISHED = "unfinished.json"
STALE_SECONDS = 7 * 86_400.0


@contextmanager
def staging_folder(target: Path, last_file: str) -> Iterator[Path]:
    """A folder that becomes `target` if the block succeeds, and is removed otherwise, unless it holds UNFINISHED: then
    the next call gets it again. A `target` that holds `last_file` is complete. Raises UserError where the disk
    refuses."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        folder, lock = unfinished_folder(target) or make_locked_folder(target)
        try:
            yield folder
            (folder / UNFINISHED).unlink(missing_ok=True)
            for path in folder.rglob("*"):
                if path.is_file():
                    sync_file(path)
            publish(folder, target, last_file)
        except OSError:
            (folder / UNFINISHED).unlink(missing_ok=True)  # a full disk needs the room
            raise
        finally:
            if not (folder / UNFINISHED).exists():
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"The data cannot be prepared in {target.parent} ({reason}); free some space there or give another --home."
        ) from error


def empty_folder(folder: Path) -> None:
    """Remove what is in a folder."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def publish(folder: Path, target: Path, last_file: str) -> None:
    """Rename `folder` to `target`, unless another process has just published the same."""
    try:
        folder.rename(target)
    except OSError:
        if not (target / last_file).exists():
            raise
    sync_directory(target.parent)


def unfinished_folder(target: Path) -> tuple[Path, int] | None:
    """The temporary folder in which an interrupted process has begun `target`, and the descriptor that holds its lock;
    None if there is none that no other process uses."""
    for record in target.parent.glob(f"{STAGING}*-{target.name}/{UNFINISHED}"):
        lock = os.open(record.parent, os.O_RDONLY)
        try:
            if try_lock(lock) and record.exists():
                return record.parent, lock
        except BlockingIOError:
            pass
        os.close(lock)
    return None


def abandoned_folders(directory: Path) -> list[Path]:
    """The temporary folders of unfinished work in `directory` that no process uses."""
    found = []
    for record in directory.glob(f"{STAGING}*/{UNFINISHED}"):
        lock = os.open(record.parent, os.O_RDONLY)
        try:
            if try_lock(lock):
                found.append(record.parent)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
    return found


def make_locked_folder(target: Path) -> tuple[Path, int]:
    """A new temporary folder next to `target`, and the descriptor that holds its lock."""
    while True:
        folder = staging_path(target)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        try_lock(lock, wait=True)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another process removed it as a leftover before it was locked


def remove_leftovers(directory: Path) -> None:
    """Remove temporary folders that no running process holds; without file locks, or with a record of unfinished work,
    those older than STALE_SECONDS."""
    for folder in directory.glob(f"{STAGING}*"):
        if not folder.is_dir():
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            is_stale = time.time() - folder.stat().st_mtime > STALE_SECONDS
            if (try_lock(lock) and not (folder / UNFINISHED).exists()) or is_stale:
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(lock)
