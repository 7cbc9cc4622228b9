"""Download of a dataset: every file is fetched, verified by its sha256, and renamed into place.

Partial files are in `<home>/datasets/<name>/.partial/`, where an interrupted download resumes. A verified file is
renamed into the folder and then added to its record, one at a time.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.data.background import count_megabytes, run_in_background
from llm.data.text.datasets import (
    LocalCopy,
    NamedDataset,
    RemoteFile,
    dataset_folder,
    has_size,
    local_copy,
    read_record,
    write_record,
)
from llm.data.text.fetch import RetryPolicy, ensure_room, fetch, metadata_path, size_of, source_of
from llm.data.text.text_files import hash_file
from llm.errors import UserError, WrongUse
from llm.events import Progress
from llm.file_locks import try_lock
from llm.files import remove_directory, sync_directory, sync_file

PARTIAL = ".partial"
REPORT_SECONDS = 0.2
RATE_SECONDS = 5.0


@dataclass(frozen=True)
class DownloadResult:
    """The local copy. `first_seen`: file → sha256 that was recorded because none was known."""

    here: LocalCopy
    first_seen: dict[str, str]


def download(
    dataset: NamedDataset, home: Path, *, shards: int = 0, retry: RetryPolicy | None = None
) -> Generator[Progress, None, DownloadResult]:
    """Download `dataset`, or the first `shards` files of a sharded one (0: one), and verify it.

    Existing files are verified, and downloaded again if damaged. Raises UserError on failure; the partial download is
    kept.
    """
    wanted = wanted_files(dataset, shards)
    folder = dataset_folder(dataset, home)
    with lock_partial(folder / PARTIAL) as partial:
        record = read_record(dataset, home)
        missing = []
        for file in wanted:
            if not (yield from is_intact(dataset, file, folder, record)):
                missing.append(file)
        needed = sum(max(0, file.size_bytes - size_of(partial / file.name)) for file in missing)
        ensure_room(folder, needed + (dataset.unpacked_bytes if missing else 0))
        first_seen = {}
        for file in missing:
            expected = file.sha256 or record["sources"].get(file.name, {}).get("sha256", "")
            found = yield from fetch_verified(dataset, file, partial / file.name, expected, retry or RetryPolicy())
            if not expected:
                first_seen[file.name] = found
            yield from publish(dataset, file, found, partial, home)
        shutil.rmtree(partial, ignore_errors=True)
    here = local_copy(dataset, home)
    if here is None:
        raise UserError(f"{folder} was changed while it was downloaded; run the download again.")
    return DownloadResult(here, first_seen)


def wanted_files(dataset: NamedDataset, shards: int) -> tuple[RemoteFile, ...]:
    """The files to download; WrongUse if `shards` does not fit the dataset."""
    if not dataset.sharded:
        if shards:
            raise WrongUse(f"The dataset {dataset.name} has no shards; omit --shards.")
        return dataset.files
    if not 0 <= shards <= len(dataset.files):
        raise WrongUse(f"--shards must be from 1 to {len(dataset.files)} for {dataset.name}, not {shards}.")
    return dataset.files[: shards or 1]


def is_intact(
    dataset: NamedDataset, file: RemoteFile, folder: Path, record: dict[str, Any]
) -> Generator[Progress, None, bool]:
    """Whether `file` (or everything unpacked from an archive) exists with the recorded size and sha256."""
    if file.name not in record["sources"]:
        return False
    names = list(record["files"]) if dataset.unpacked_bytes else [file.name]
    for name in names:
        entry = record["files"].get(name, {"size": -1, "sha256": ""})
        if not has_size(folder / name, entry["size"]):
            return False
        if (yield from hash_with_progress(folder / name, f"Verifying {dataset.name}")) != entry["sha256"]:
            return False
    return bool(names)


def hash_with_progress(path: Path, stage: str) -> Generator[Progress, None, str]:
    """sha256 of a file, hexadecimal."""
    return (
        yield from run_in_background(
            lambda report: hash_file(path, count_megabytes(report)), stage, path.stat().st_size / 1e6
        )
    )


def fetch_verified(
    dataset: NamedDataset, file: RemoteFile, part: Path, expected: str, retry: RetryPolicy
) -> Generator[Progress, None, str]:
    """Fetch `file` into `part` and return its sha256, which must be `expected` unless that is "". On a mismatch, fetch
    once more from the beginning: the partial download may have been damaged."""
    found = ""
    for _ in range(2):
        yield from fetch_with_progress(dataset, file, part, retry)
        found = yield from hash_with_progress(part, f"Verifying {dataset.name}")
        if not expected or found == expected:
            return found
        part.unlink()
        metadata_path(part).unlink(missing_ok=True)
    renewed = "" if file.sha256 else f", or delete {part.parent.parent} to accept the current file"
    raise UserError(
        f"{file.url} has the sha256 {found}, not the expected {expected}: it was damaged in transit or has "
        f"changed at its source; try again, or get the file elsewhere and name its path in data.corpus{renewed}."
    )


def fetch_with_progress(
    dataset: NamedDataset, file: RemoteFile, part: Path, retry: RetryPolicy
) -> Generator[Progress, None, None]:
    """Fetch `file` into `part`; yields progress in megabytes with the rate of the last seconds."""
    stage = f"Downloading {dataset.name}: {file.name}"
    recent = deque([(time.monotonic(), size_of(part))])
    reported = 0.0
    for done, total in fetch(file.url, part, retry):
        now = time.monotonic()
        if now - reported < REPORT_SECONDS and done != total:
            continue
        reported = now
        recent.append((now, done))
        while len(recent) > 2 and now - recent[0][0] > RATE_SECONDS:
            recent.popleft()
        (since, before), total = recent[0], total or file.size_bytes
        rate = max(0.0, (done - before) / (now - since)) if now > since else 0.0
        size = max(done, total) if total else 0  # an estimate may be too small
        sender = source_of(file.url, part)
        shown = f"{stage} (redirected to {sender})" if sender else stage
        yield Progress(stage=shown, done=done / 1e6, total=size / 1e6, unit="MB", rate=rate / 1e6)


def publish(
    dataset: NamedDataset, file: RemoteFile, sha256: str, partial: Path, home: Path
) -> Generator[Progress, None, None]:
    """Rename the verified file, or its unpacked content, into the folder of the dataset, then record it."""
    folder, part = dataset_folder(dataset, home), partial / file.name
    record = read_record(dataset, home)
    if dataset.unpacked_bytes:
        unpacked = partial / "unpacked"
        yield Progress(stage=f"Unpacking {dataset.name}", done=0, total=0)
        unpack(part, unpacked)
        record["files"] = {}
        for path in sorted(unpacked.rglob("*")):
            if path.is_file():
                digest = yield from hash_with_progress(path, f"Verifying {dataset.name}")
                record["files"][str(path.relative_to(unpacked))] = {"size": path.stat().st_size, "sha256": digest}
        for path in unpacked.iterdir():
            move(path, folder / path.name)
    else:
        record["files"][file.name] = {"size": part.stat().st_size, "sha256": sha256}
        move(part, folder / file.name)
    record["sources"][file.name] = {"url": file.url, "sha256": sha256}
    write_record(dataset, home, record)


def move(source: Path, target: Path) -> None:
    """Sync a file or folder to disk and rename it to `target`, replacing what is there."""
    for path in source.rglob("*") if source.is_dir() else (source,):
        if path.is_file():
            sync_file(path)
    if target.is_dir():
        remove_directory(target)
    source.replace(target)
    sync_directory(target.parent)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip archive into the new folder `target`, and no file outside it.

    A damaged archive is deleted, so that the next download fetches it again.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = [info for info in bundle.infolist() if not info.is_dir()]
            for info in members:
                check_member(info, target)
            ensure_room(archive.parent, sum(info.file_size for info in members))
            for info in members:
                path = target / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(info) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        archive.unlink()
        metadata_path(archive).unlink(missing_ok=True)
        raise UserError(f"{archive.name} is not a complete zip archive ({error}); run the download again.") from error
    except OSError as error:
        raise UserError(
            f"{archive.name} cannot be unpacked in {target} ({error.strerror}); fix that and try again."
        ) from error


def check_member(info: zipfile.ZipInfo, target: Path) -> None:
    """UserError if a member of an archive is a link or its path is outside `target`."""
    inside = (target / info.filename).resolve().is_relative_to(target.resolve())
    if not inside or stat.S_ISLNK(info.external_attr >> 16) or "\\" in info.filename:
        raise UserError(f"The archive contains {info.filename!r}, which is outside its folder; do not use it.")


@contextmanager
def lock_partial(partial: Path) -> Iterator[Path]:
    """The folder of partial files, locked by this process."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{partial} cannot be made ({error.strerror}); give another --home.") from error
    try:
        try_lock(lock)
        yield partial
    except BlockingIOError:
        raise UserError(f"{partial.parent.name} is being downloaded by another process; wait for it.") from None
    finally:
        os.close(lock)
