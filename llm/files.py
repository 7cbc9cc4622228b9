"""Atomic writes of files and directories, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.errors import UserError, reason_of
from llm.events import finite
from llm.reader import MAX_JSON_BYTES, Malformed, load_json, open_file

STAGING = ".tmp-"
ASIDE = ".was-"  # prefix of a directory that is being replaced
CLOCK_SECONDS = 2.0  # tolerance between process start times and file times
CHUNK = 1 << 22  # bytes per read of a checksum


def expand_user(path: str | Path) -> Path:
    """`path` with ~ replaced as a shell does; unchanged if there is no such user or no home directory (where
    `Path.expanduser` raises RuntimeError)."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold `text`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def staging_path(target: Path) -> Path:
    """A new name in the folder of `target`: on the same file system, so that a rename can publish it."""
    return target.with_name(f"{STAGING}{os.getpid()}-{secrets.token_hex(4)}-{target.name}"[:200])


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader, also after a crash, sees the old file or the complete new one."""
    staging = staging_path(path)
    try:
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def is_filled(path: Path) -> bool:
    """Whether there is such a file with any content."""
    return path.is_file() and path.stat().st_size > 0


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Lone surrogates, which UTF-8 cannot hold, are escaped.

    Non-finite numbers, which JSON lacks but an edited file may hold, become strings, as in the event log.
    """
    value = finite(value)
    try:
        data = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(value, indent=2, allow_nan=False).encode()
    write_atomic(path, data + b"\n")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON value in `path`; a `UserError` names the file when it is missing, damaged or beyond a limit."""
    try:
        return load_json(path, max_bytes)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it from a backup, or use another run or checkpoint.") from None
    except (OSError, Malformed) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}); restore it from a backup.") from error


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder without subfolders into `target`, which is created. OSError names the file that cannot
    be copied (`shutil.copytree` raises one without a reason)."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)


@contextmanager
def published_directory(target: Path) -> Iterator[Path]:
    """A staging directory that becomes `target` when the block ends without an error.

    The files are synced, then the directory, then it is renamed, then the parent is synced: a crash at any moment
    leaves either no `target` or a complete one. An existing `target` is moved aside first, and moved back on an error
    (after a kill, by `remove_staging`). Only the direct parent is created: a save must not recreate a run that was
    removed.
    """
    target.parent.mkdir(exist_ok=True)
    staging = staging_path(target)
    staging.mkdir()
    aside = target.with_name(ASIDE + target.name)
    try:
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
                sync_file(path)
        sync_directory(staging)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        staging.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Delete a directory. It is renamed first, so that no reader sees a part of it."""
    staging = staging_path(path)
    path.rename(staging)
    shutil.rmtree(staging, ignore_errors=True)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_from_page_cache(path: Path) -> None:
    """Ask the system to drop a synced file from the page cache, so that the next read comes from the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """fsync a directory, so that a rename in it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """The checksum of a file; `progress` is called with the number of bytes read since the last call."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def directory_size(path: Path) -> int:
    """Bytes in the files below `path`; files that vanish or are not readable are skipped."""
    total = 0
    for file in path.rglob("*"):
        try:
            if file.is_file():
                total += file.stat().st_size
        except (FileNotFoundError, PermissionError):
            continue
    return total


def remove_staging(directory: Path) -> None:
    """Delete what interrupted writers left in `directory`: staging names whose process has ended, also where another
    process has its pid now.

    A directory that was being replaced is moved back where there is no new one.
    """
    for aside in directory.glob(f"{ASIDE}*"):
        replaced = aside.with_name(aside.name.removeprefix(ASIDE))
        if replaced.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(replaced)
    for path in directory.glob(f"{STAGING}*"):
        pid = path.name.removeprefix(STAGING).split("-")[0]
        if pid.isdigit() and may_be_writing(int(pid), path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def may_be_writing(pid: int, path: Path) -> bool:
    """Whether process `pid` runs and started before `path` was last changed, so that it may be the writer."""
    import psutil  # slow to import, and not needed to read a run

    try:
        began: float = psutil.Process(pid).create_time()
        return began <= path.stat().st_mtime + CLOCK_SECONDS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True
