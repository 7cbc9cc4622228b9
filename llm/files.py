"""Files that are either wholly there or not there at all."""

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

from llm.errors import UserError
from llm.reader import MAX_JSON_BYTES, Malformed, load_json, open_file

STAGING = ".tmp-"
ASIDE = ".was-"  # a directory that is just being replaced
CLOCK_SECONDS = 2.0  # by which the clocks of processes and of files may differ
CHUNK = 1 << 22  # bytes read at once while a file is checked


def staging_path(target: Path) -> Path:
    """A fresh name beside `target`: on the same file system, so that a rename publishes it."""
    return target.with_name(f"{STAGING}{os.getpid()}-{secrets.token_hex(4)}-{target.name}"[:200])


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` such that a reader, also after a crash, sees the old file or the new one whole."""
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Lone surrogates, which UTF-8 cannot hold, are escaped."""
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
        raise UserError(f"{path} is missing; restore it from a copy, or use another run or checkpoint.") from None
    except (OSError, Malformed) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        raise UserError(f"{path} cannot be read ({reason}); restore it from a copy.") from error


@contextmanager
def published_directory(target: Path) -> Iterator[Path]:
    """A staging directory that becomes `target` when the block ends without an error.

    The files are synced, then the directory, then it is renamed, then the parent is synced: a crash at any moment
    leaves either no `target` or a whole one. A `target` that is there already is moved aside first, and put back
    when something comes between (after a kill, by `remove_staging`). Of its parents at most the nearest is made: a
    save that ends after its run was removed must not bring the run back.
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
    """Take a directory away: out of sight with one rename first, so that nobody ever finds half of it."""
    doomed = staging_path(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def forget_cached(path: Path) -> None:
    """Ask the system to drop its copy of a synced file, so that reading it back reads the disk. No more than a wish."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
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
    """Bytes in the files below `path`; files that vanish meanwhile, or may not be looked at, count nothing."""
    total = 0
    for file in path.rglob("*"):
        try:
            if file.is_file():
                total += file.stat().st_size
        except (FileNotFoundError, PermissionError):
            continue
    return total


def remove_staging(directory: Path) -> None:
    """Clear what interrupted writers left in `directory`: staging names whose process is gone,
    though its number may have been given to another since.

    A directory that was being replaced is put back where nothing took its place.
    """
    for aside in directory.glob(f"{ASIDE}*"):
        replaced = aside.with_name(aside.name.removeprefix(ASIDE))
        if replaced.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(replaced)
    for path in directory.glob(f"{STAGING}*"):
        pid = path.name.removeprefix(STAGING).split("-")[0]
        if pid.isdigit() and process_was_there(int(pid), path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def process_was_there(pid: int, path: Path) -> bool:
    """Whether the process of that number lives, and began before `path` was last changed: it may be writing there."""
    import psutil  # here, for reading a run needs no such thing

    try:
        began: float = psutil.Process(pid).create_time()
        return began <= path.stat().st_mtime + CLOCK_SECONDS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True
