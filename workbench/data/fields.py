"""Which field of rows holds the text: found where that is certain, else asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.errors import UserError

LOOKED_AT_ROWS = 20
LOOKED_AT_FILES = 50
EXAMPLE_CHARACTERS = 60


class FieldNeeded(UserError):
    """Which field of the rows in `path` holds the text must be said; `fields`: the names of those that hold any, each
    with an example."""

    def __init__(self, path: str, fields: dict[str, str], others: list[str]) -> None:
        self.path, self.fields, self.others = path, fields, others
        from llm.data.text.file_kinds import name_some

        named = name_some([*fields, *others])
        super().__init__(
            f"The rows of {path} have no field 'text', and which of their fields holds the text cannot be told: "
            f"{named}; add it again and name one, or set data.text_field."
        )


def text_field_of(name: str, pattern: str) -> str:
    """The field that holds the text of the rows that `pattern` means: "text" if there is one, or where there are none;
    else the only one that reads like text. `name` is what to call them.

    Raises FieldNeeded where several fields read like text, or none does (an id is none).
    """
    from llm.data.text.find_files import find_files

    rows = next(filter(None, map(first_rows, find_files(pattern)[:LOOKED_AT_FILES])), [])
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
    """Whether a value is more than an id, a number or an address: it has letters, and spaces or is not ASCII."""
    letters = any(map(str.isalpha, value))
    return letters and (any(map(str.isspace, value.strip())) or not value.isascii())


def first_rows(path: Path) -> list[dict[str, Any]]:
    """The first rows of a file of them; none where it is plain text, or cannot be read, which reading the corpus
    reports."""
    try:
        return list(itertools.islice(rows_of(path), LOOKED_AT_ROWS))
    except UserError:
        return []


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    from llm.data.text.file_kinds import kind_of
    from llm.data.text.rows import csv_records, json_records

    kind = kind_of(path, "auto", "text")
    if kind.reading == "parquet":
        yield from parquet_rows(path)
    elif kind.shape and (kind.reading == "jsonl" or kind.lacks_field):
        yield from (row for _, row in json_records(path, kind.shape, lambda *_: None) if isinstance(row, dict))
    elif kind.delimiter and (kind.reading == "csv" or kind.lacks_field):
        yield from (
            dict(zip(kind.fields, cells, strict=False)) for _, cells in csv_records(path, kind, lambda *_: None)
        )


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet

        with parquet.ParquetFile(path) as table:
            rows = next(table.iter_batches(batch_size=LOOKED_AT_ROWS), None)
    except (ImportError, OSError, ArrowException):
        return  # reading the corpus says what is missing
    yield from rows.to_pylist() if rows is not None else ()
