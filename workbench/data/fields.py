"""Detects which field of the rows contains the text, or raises an error that lets the user choose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.errors import UserError

SAMPLED_ROWS = 20
SAMPLED_FILES = 50
EXAMPLE_CHARACTERS = 60


class FieldNeeded(UserError):
    """The text of the rows in `path` could be in several fields, or in none. `fields` maps the text fields to
    examples; `others` are the names of the other fields."""

    def __init__(self, path: str, fields: dict[str, str], others: list[str]) -> None:
        self.path, self.fields, self.others = path, fields, others
        from llm.data.text.file_kinds import name_some

        named = name_some([*fields, *others])
        super().__init__(
            f"The rows of {path} have no field 'text', and it is unclear which field contains the text: "
            f"{named}; add it again with one of them, or set data.text_field."
        )


def text_field_of(name: str, pattern: str) -> str:
    """The field with the text of the rows in the files of `pattern`: "text" if it exists or there are no rows, else the
    only field that reads like text. `name` is used in errors.

    Raises FieldNeeded if several fields read like text, or none.
    """
    from llm.data.text.find_files import find_files

    rows = next(filter(None, map(first_rows, find_files(pattern)[:SAMPLED_FILES])), [])
    values: dict[str, list[Any]] = {}
    for row in rows:
        for field, value in row.items():
            values.setdefault(field, []).append(value)
    if not values or "text" in values:
        return "text"
    texts = {field: [value for value in found if isinstance(value, str)] for field, found in values.items()}
    likely = [field for field, found in texts.items() if any(map(reads_like_text, found))]
    if len(likely) == 1:
        return likely[0]
    examples = {field: found[0][:EXAMPLE_CHARACTERS] for field, found in texts.items() if found}
    ordered = sorted(examples, key=lambda field: (field not in likely, -max(map(len, texts[field]))))
    others = [field for field in values if field not in examples]
    raise FieldNeeded(name, {field: examples[field] for field in ordered}, others)


def reads_like_text(value: str) -> bool:
    """Whether a value is text, not an id, number or address: it has letters, and spaces or non-ASCII characters."""
    letters = any(map(str.isalpha, value))
    return letters and (any(map(str.isspace, value.strip())) or not value.isascii())


def first_rows(path: Path) -> list[dict[str, Any]]:
    """The first rows of a file; none if it is plain text or unreadable, which reading the corpus reports later."""
    try:
        return list(itertools.islice(rows_of(path), SAMPLED_ROWS))
    except UserError:
        return []


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    from llm.data.text.file_kinds import kind_of
    from llm.data.text.rows import csv_records, json_records

    kind = kind_of(path, "auto", "text")
    if kind.reading == "parquet":
        yield from parquet_rows(path)
    elif kind.reading == "arrow":
        yield from arrow_rows(path)
    elif kind.shape and (kind.reading == "jsonl" or kind.lacks_field):
        yield from (row for _, row in json_records(path, kind.shape, lambda *_: None) if isinstance(row, dict))
    elif kind.delimiter and (kind.reading == "csv" or kind.lacks_field):
        yield from (
            dict(zip(kind.fields, cells, strict=False)) for _, cells in csv_records(path, kind, lambda *_: None)
        )


def arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    from llm.data.text.arrow import batches_of, open_arrow

    with open_arrow(path) as table:
        rows = next(batches_of(table), None)
        yield from rows.slice(0, SAMPLED_ROWS).to_pylist() if rows is not None else []


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet  # slow to import

    try:
        with parquet.ParquetFile(path) as table:
            rows = next(table.iter_batches(batch_size=SAMPLED_ROWS), None)
            found = rows.to_pylist() if rows is not None else []
    except (OSError, ArrowException, UnicodeDecodeError):
        return  # reading the corpus reports what is missing
    yield from found
