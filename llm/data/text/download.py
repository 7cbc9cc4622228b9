"""Downloading a data set, by name or web address: every file fetched, verified by its sha256, and published whole.

Unfinished files lie in `<home>/datasets/<name>/.partial/`, from where an interrupted download goes on. A verified file
is renamed into the folder and then noted in its record, one at a time.
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

from llm.data.background import in_background, summed
from llm.data.text.datasets import (
    NamedDataset,
    Present,
    RemoteFile,
    dataset_folder,
    has_size,
    present,
    read_record,
    write_record,
)
from llm.data.text.fetch import Patience, ensure_room, fetch, note_path, size_of, source_of
from llm.data.text.text_files import hash_file
from llm.errors import UserError, WrongUse
from llm.events import Progress
from llm.file_locks import try_lock
from llm.files import remove_directory, sync_directory, sync_file

PARTIAL = ".partial"
REPORT_SECONDS = 0.2
RATE_SECONDS = 5.0


@dataclass(frozen=True)
class Downloaded:
    """The data set as it is here now. `first_seen`: file → sha256 that could be compared with nothing, only noted."""

    here: Present
    first_seen: dict[str, str]


def download(
    dataset: NamedDataset, home: Path, *, shards: int = 0, patience: Patience | None = None
) -> Generator[Progress, None, Downloaded]:
    """Make `dataset` (of a sharded one the first `shards` files, 0: one) be here, whole and verified.

    Files that are here already are verified, and fetched again where they are damaged. Raises UserError, and keeps
    what has come, where that cannot be done.
    """
    wanted = wanted_files(dataset, shards)
    folder = dataset_folder(dataset, home)
    with reserved(folder / PARTIAL) as partial:
        record = read_record(dataset, home)
        missing = []
        for file in wanted:
            if not (yield from is_whole(dataset, file, folder, record)):
                missing.append(file)
        needed = sum(max(0, file.size_bytes - size_of(partial / file.name)) for file in missing)
        ensure_room(folder, needed + (dataset.unpacked_bytes if missing else 0))
        first_seen = {}
        for file in missing:
            expected = file.sha256 or record["sources"].get(file.name, {}).get("sha256", "")
            found = yield from verified(dataset, file, partial / file.name, expected, patience or Patience())
            if not expected:
                first_seen[file.name] = found
            yield from publish(dataset, file, found, partial, home)
        shutil.rmtree(partial, ignore_errors=True)
    here = present(dataset, home)
    if here is None:
        raise UserError(f"{folder} was changed while it was downloaded; run the download again.")
    return Downloaded(here, first_seen)


def wanted_files(dataset: NamedDataset, shards: int) -> tuple[RemoteFile, ...]:
    """The files of the data set; WrongUse where `shards` does not fit it."""
    if not dataset.sharded:
        if shards:
            raise WrongUse(f"The data set {dataset.name} has no shards; leave --shards away.")
        return dataset.files
    if not 0 <= shards <= len(dataset.files):
        raise WrongUse(f"--shards must be from 1 to {len(dataset.files)} for {dataset.name}, not {shards}.")
    return dataset.files[: shards or 1]


def is_whole(
    dataset: NamedDataset, file: RemoteFile, folder: Path, record: dict[str, Any]
) -> Generator[Progress, None, bool]:
    """Whether `file` (of an archive: everything unpacked from it) is here with the size and sha256 recorded."""
    if file.name not in record["sources"]:
        return False
    names = list(record["files"]) if dataset.unpacked_bytes else [file.name]
    for name in names:
        entry = record["files"].get(name, {"size": -1, "sha256": ""})
        if not has_size(folder / name, entry["size"]):
            return False
        if (yield from hashed(folder / name, f"Verifying {dataset.name}")) != entry["sha256"]:
            return False
    return bool(names)


def hashed(path: Path, stage: str) -> Generator[Progress, None, str]:
    """sha256 of a file, hexadecimal."""
    return (yield from in_background(lambda report: hash_file(path, summed(report)), stage, path.stat().st_size / 1e6))


def verified(
    dataset: NamedDataset, file: RemoteFile, part: Path, expected: str, patience: Patience
) -> Generator[Progress, None, str]:
    """Fetch `file` into `part` and return its sha256, which must be `expected` where that is given. One that is not
    is fetched once more from the beginning: the fault may be in what an earlier download left."""
    found = ""
    for _ in range(2):
        yield from transferred(dataset, file, part, patience)
        found = yield from hashed(part, f"Verifying {dataset.name}")
        if not expected or found == expected:
            return found
        part.unlink()
        note_path(part).unlink(missing_ok=True)
    renewed = "" if file.sha256 else f", or delete {part.parent.parent} to take what is there now"
    raise UserError(
        f"{file.url} has the sha256 {found}, not the {expected} that was expected: it is damaged on its way or has "
        f"changed at its source; try again, or get the file elsewhere and name its path in data.corpus{renewed}."
    )


def transferred(
    dataset: NamedDataset, file: RemoteFile, part: Path, patience: Patience
) -> Generator[Progress, None, None]:
    """Fetch `file` into `part`, with its progress in megabytes and the rate of the last seconds."""
    stage = f"Downloading {dataset.name}: {file.name}"
    recent = deque([(time.monotonic(), size_of(part))])
    told = 0.0
    for done, total in fetch(file.url, part, patience):
        now = time.monotonic()
        if now - told < REPORT_SECONDS and done != total:
            continue
        told = now
        recent.append((now, done))
        while len(recent) > 2 and now - recent[0][0] > RATE_SECONDS:
            recent.popleft()
        (since, before), total = recent[0], total or file.size_bytes
        rate = max(0.0, (done - before) / (now - since)) if now > since else 0.0
        size = max(done, total) if total else 0  # an estimate may be too small
        sender = source_of(file.url, part)
        told_stage = f"{stage} (redirected to {sender})" if sender else stage
        yield Progress(stage=told_stage, done=done / 1e6, total=size / 1e6, unit="MB", rate=rate / 1e6)


def publish(
    dataset: NamedDataset, file: RemoteFile, sha256: str, partial: Path, home: Path
) -> Generator[Progress, None, None]:
    """Rename the verified file, or what it unpacks to, into the data set's folder, and then record it."""
    folder, part = dataset_folder(dataset, home), partial / file.name
    record = read_record(dataset, home)
    if dataset.unpacked_bytes:
        unpacked = partial / "unpacked"
        yield Progress(stage=f"Unpacking {dataset.name}", done=0, total=0)
        unpack(part, unpacked)
        record["files"] = {}
        for path in sorted(unpacked.rglob("*")):
            if path.is_file():
                digest = yield from hashed(path, f"Verifying {dataset.name}")
                record["files"][str(path.relative_to(unpacked))] = {"size": path.stat().st_size, "sha256": digest}
        for path in unpacked.iterdir():
            move(path, folder / path.name)
    else:
        record["files"][file.name] = {"size": part.stat().st_size, "sha256": sha256}
        move(part, folder / file.name)
    record["sources"][file.name] = {"url": file.url, "sha256": sha256}
    write_record(dataset, home, record)


def move(source: Path, target: Path) -> None:
    """Publish a file or folder at `target`, in the place of what may be there, after its bytes are safe on the disk."""
    for path in source.rglob("*") if source.is_dir() else (source,):
        if path.is_file():
            sync_file(path)
    if target.is_dir():
        remove_directory(target)
    source.replace(target)
    sync_directory(target.parent)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip archive into the new folder `target`, and no file outside it, whatever it holds.

    A damaged archive is deleted, so that the next download fetches it anew.
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
        note_path(archive).unlink(missing_ok=True)
        raise UserError(f"{archive.name} is not a whole zip archive ({error}); run the download again.") from error
    except OSError as error:
        raise UserError(f"{archive.name} cannot be unpacked in {target} ({error.strerror}); see to that.") from error


def check_member(info: zipfile.ZipInfo, target: Path) -> None:
    """UserError where a member of an archive is a link or would lie outside the folder it is unpacked into."""
    inside = (target / info.filename).resolve().is_relative_to(target.resolve())
    if not inside or stat.S_ISLNK(info.external_attr >> 16) or "\\" in info.filename:
        raise UserError(f"The archive holds {info.filename!r}, which would lie outside its folder; do not use it.")


@contextmanager
def reserved(partial: Path) -> Iterator[Path]:
    """The folder of unfinished files, held by this process alone."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{partial} cannot be made ({error.strerror}); give another --home.") from error
    try:
        hold(lock, partial)
        yield partial
    finally:
        os.close(lock)


def hold(lock: int, partial: Path) -> None:
    try:
        try_lock(lock)
    except BlockingIOError:
        raise UserError(f"{partial.parent.name} is being downloaded by another process; wait for it.") from None
