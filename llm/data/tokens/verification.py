"""Which token files of a dataset were read in full and found to be as written.

A file is verified once per identity (size, time of change, inode, device). A copied or modified file is read again;
an untouched one costs one `stat`. The time of change (ctime) cannot be set, unlike that of modification, which copying
and restoring tools keep. The record is `verified.json` in the folder of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.data.tokens.shards import Shard, remedy
from llm.data.tokens.token_files import TokenFile
from llm.files import write_json
from llm.reader import Malformed, load_json

RECORD = "verified.json"
Identity = list[int]


def unverified(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those of `paths`, files below `folder`, that were not verified since they changed."""
    known = read_record(folder)
    return [path for path in paths if known.get(name_in(folder, path)) != identity_of(path)]


def verify_files(folder: Path, files: Mapping[Path, str], vocab_size: int, advance: Callable[[int], None]) -> None:
    """Read token files in full and record the intact ones. `files` maps each to its sha256, "" for a shard (whose
    header has it) or unknown. `advance` is called with the number of bytes read.

    UserError names the first file with an id outside the vocabulary or with another sha256.
    """
    for path, sha256 in files.items():
        before = identity_of(path)
        if path.suffix == ".bin":
            Shard(path).verify(advance)
        else:
            TokenFile(path, vocab_size).verify(advance, remedy(folder), sha256)
        if identity_of(path) == before:
            add_to_record(folder, {path: before})


def record_written(folder: Path, paths: Iterable[Path]) -> None:
    """Record files that were just written, with checksums of what was to be written."""
    add_to_record(folder, {path: identity_of(path) for path in paths})


def add_to_record(folder: Path, found: dict[Path, Identity]) -> None:
    """Add to the record. In a read-only folder the files are read again next time."""
    record = read_record(folder) | {name_in(folder, path): identity for path, identity in found.items()}
    with suppress(OSError):
        write_json(folder / RECORD, record)


def read_record(folder: Path) -> dict[str, Identity]:
    try:
        record = load_json(folder / RECORD)
    except (OSError, Malformed):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if is_identity(entry)}


def is_identity(entry: Any) -> bool:
    return isinstance(entry, list) and all(type(number) is int for number in entry)


def identity_of(path: Path) -> Identity:
    """Size, time of change in ns, inode and device. Raises OSError if there is no such file."""
    status = path.stat()
    return [status.st_size, status.st_ctime_ns, status.st_ino, status.st_dev]


def name_in(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))
