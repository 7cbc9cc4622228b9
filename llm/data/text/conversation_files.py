"""Files of conversations: JSONL, lists in JSON, Parquet and Arrow. Every bad row is named, and the others are used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from llm.data.text.arrow import batches_of, open_arrow
from llm.data.text.compressed import plain_name
from llm.data.text.conversations import BadRow, shape_of
from llm.data.text.corpora import Advance, digest, no_files_error
from llm.data.text.find_files import describe_skipped, search_files
from llm.data.text.json_text import JsonText, split_lines
from llm.data.text.parquet import open_table
from llm.data.text.rows import json_items, json_values, numbered_lines
from llm.data.text.saved_datasets import is_arrow
from llm.data.text.text_files import PARQUET_MAGIC, FileHashes, content_size, read_beginning, read_text
from llm.errors import UserError
from llm.reader import Malformed, parse_json

NAMED_ROWS = 5
"""Bad rows that a warning names; all are in the list `skipped`."""
MAX_LINE = 64 << 20
SNIFFED_ROWS = 20
TABLE_ROWS = 256
"""Rows of a table that are in memory as objects at once."""

T = TypeVar("T")


@dataclass
class ConversationFiles(Generic[T]):
    """The rows of the files that match a path, folder or glob, each read by `from_row`, which may raise BadRow.

    `skipped` is filled while `rows` is read: one sentence for each bad row.
    """

    name: str
    from_row: Callable[[Any], T]
    hashes: FileHashes
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths, self._other_files = search_files(self.name)
        if not self.paths:
            raise no_files_error(self.name, self._other_files)
        self.size_bytes = sum(map(content_size, self.paths))

    def rows(self) -> Iterator[T]:
        """Every usable row, in order. UserError if there is none."""
        self.skipped.clear()
        found = False
        for path in self.paths:
            for place, value in read_rows(path, self.skipped):
                try:
                    row = self.from_row(value)
                except BadRow as error:
                    self.skipped.append(f"{place} {error}.")
                    continue
                found = True
                yield row
        if not found:
            reasons = " ".join(self.skipped[:NAMED_ROWS]) or "It has no rows."
            raise UserError(f"{self.name} holds no conversation. {reasons} Give a file with messages in it.")

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the rows. `advance` is called with the number of bytes read."""
        return digest("conversations", *(self.hashes.of(path, advance) for path in self.paths))

    def warnings(self) -> list[str]:
        """Sentences about the files and rows that were skipped."""
        return [*describe_skipped(self._other_files), *describe_bad_rows(self.skipped)]


def describe_bad_rows(skipped: list[str]) -> list[str]:
    """The number of skipped rows, and the first of them by name."""
    if not skipped:
        return []
    rest = len(skipped) - NAMED_ROWS
    more = [f"{rest:,} more rows were skipped; skipped.txt in the folder of the dataset names all."] if rest > 0 else []
    rows = "1 row was" if len(skipped) == 1 else f"{len(skipped):,} rows were"
    return [f"{rows} skipped; all others are used.", *skipped[:NAMED_ROWS], *more]


def conversation_shape(path: Path) -> str:
    """The shape of the first rows of a file (see `shape_of`); "" if it is not a file of conversations."""
    try:
        return next(filter(None, map(shape_of, first_rows(path))), "")
    except (UserError, ValueError):
        return ""


def first_rows(path: Path) -> Iterator[Any]:
    """The first rows of a file, of those that are JSON. Reads only its beginning."""
    if is_table(path):
        yield from (value for _, value in itertools.islice(table_rows(path), SNIFFED_ROWS))
        return
    pieces = read_text(path)
    if JsonText(read_text(path)).peek() not in ("{", "["):
        return
    if is_json_list(path):
        yield from itertools.islice(json_values(JsonText(pieces), "list"), SNIFFED_ROWS)
        return
    for line in itertools.islice(split_lines(pieces), SNIFFED_ROWS):
        with suppress(Malformed):
            yield parse_json(line, MAX_LINE)


def is_table(path: Path) -> bool:
    """Whether a file holds columns: Parquet or Arrow."""
    return is_parquet(path) or is_arrow(path.name, read_beginning(path))


def is_parquet(path: Path) -> bool:
    return Path(plain_name(path)).suffix.lower() == ".parquet" or read_beginning(path).startswith(PARQUET_MAGIC)


def read_rows(path: Path, skipped: list[str]) -> Iterator[tuple[str, Any]]:
    """The rows of a file, each with its place in words; a sentence about each invalid line is added to `skipped`.

    UserError for a file that cannot be read, and for a JSON list that is invalid.
    """
    if is_table(path):
        yield from table_rows(path)
        return
    pieces = read_text(path)
    if is_json_list(path):
        yield from json_items(path, pieces, "list")
        return
    for number, line in numbered_lines(path, pieces):
        try:
            value = parse_json(line, MAX_LINE)
        except Malformed as error:
            skipped.append(f"{path} line {number} is not JSON ({error}).")
            continue
        yield f"{path} line {number}", value


def is_json_list(path: Path) -> bool:
    """Whether a file is one list of rows, and not one object, or one list of messages, per line."""
    try:
        text = JsonText(read_text(path))
        if text.peek() != "[":
            return False
        text.take("[")
        return text.peek() != "{" or shape_of(text.value()) != ""
    except ValueError:
        return False


def table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a Parquet or Arrow file as objects; null columns are left out."""
    number = 0
    for batch in parquet_batches(path) if is_parquet(path) else arrow_batches(path):
        for row in batch.to_pylist():
            number += 1
            yield f"{path} row {number}", {name: value for name, value in row.items() if value is not None}


def parquet_batches(path: Path) -> Iterator[Any]:
    with open_table(path) as table:
        yield from table.iter_batches(batch_size=TABLE_ROWS)


def arrow_batches(path: Path) -> Iterator[Any]:
    """Record batches of at most TABLE_ROWS rows: those of a file may be large."""
    with open_arrow(path) as table:
        for batch in batches_of(table):
            yield from (batch.slice(start, TABLE_ROWS) for start in range(0, batch.num_rows, TABLE_ROWS))
