"""Which token files of a prepared data set were read in full and found as they were written.

Each is verified once per identity (size, time of change, inode, device): a copy, or a file that something wrote to, is
read again; one that nothing touched costs one `stat`. What is verified is kept in `verified.json` in the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.data.tokens.shards import Shard
from llm.data.tokens.token_files import TokenFile
from llm.files import write_json
from llm.reader import Malformed, load_json

RECORD = "verified.json"
Identity = list[int]


def unverified(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those of `paths`, files below `folder`, that were not verified as they are now."""
    known = known_identities(folder)
    return [path for path in paths if known.get(name_in(folder, path)) != identity_of(path)]


def verify_files(folder: Path, paths: Iterable[Path], vocab_size: int, advance: Callable[[int], None]) -> None:
    """Read token files in full and remember those that are whole. UserError names the first with an id outside the
    vocabulary, or with another sha256 than its header says. `advance` is called with the bytes read."""
    for path in paths:
        before = identity_of(path)
        if path.suffix == ".bin":
            Shard(path).verify(advance)
        else:
            TokenFile(path, vocab_size).verify(advance)
        if identity_of(path) == before:
            remember(folder, {path: before})


def remember_all(folder: Path, paths: Iterable[Path]) -> None:
    """Note files that were just written, with checksums taken of what was meant to be in them."""
    remember(folder, {path: identity_of(path) for path in paths})


def remember(folder: Path, found: dict[Path, Identity]) -> None:
    """Add to the record; a folder that cannot be written only means that the files are read again next time."""
    record = known_identities(folder) | {name_in(folder, path): identity for path, identity in found.items()}
    with suppress(OSError):
        write_json(folder / RECORD, record)


def known_identities(folder: Path) -> dict[str, Identity]:
    try:
        record = load_json(folder / RECORD)
    except (OSError, Malformed):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if is_identity(entry)}


def is_identity(entry: Any) -> bool:
    return isinstance(entry, list) and all(type(number) is int for number in entry)


def identity_of(path: Path) -> Identity:
    """Size, time of modification in ns, inode and device; `OSError` where there is no such file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev]


def name_in(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))
