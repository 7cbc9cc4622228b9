"""The documents in files of rows: JSON in its several shapes, and CSV. One row at a time is in memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm.data.text.file_kinds import FileKind, name_some
from llm.data.text.json_text import JsonText, lines_of, parse_json
from llm.data.text.text_files import Document, Replaced, document, read_text
from llm.errors import UserError

LONGEST_CELL = 1 << 28  # characters

Empty = Callable[[Path, int], None]


def read_json_documents(
    path: Path, kind: FileKind, text_field: str, replaced: Replaced, empty: Empty
) -> Iterator[Document]:
    """One document per object. Rows whose field is null are left out, and `empty` is called with their number.

    UserError names file and place of a row without text in that field, and of what is not JSON.
    """
    nulls = 0
    try:
        for where, record in json_records(path, kind.shape, replaced):
            text = record.get(text_field, 0) if isinstance(record, dict) else 0
            if text is None:
                nulls += 1
            elif isinstance(text, str):
                yield from filter(None, [document(where, text)])
            else:
                raise no_text(where, record, text_field)
    finally:
        empty(path, nulls)


def no_text(where: str, record: Any, text_field: str) -> UserError:
    """The error of a row that has no text in the field asked for."""
    fields = name_some(record) if isinstance(record, dict) else "none, it is not an object"
    return UserError(
        f"{where} has no text in the field {text_field!r}; its fields are: {fields} "
        "(data.text_field names the one to use)."
    )


def json_records(path: Path, shape: str, replaced: Replaced) -> Iterator[tuple[str, Any]]:
    """What a file of JSON holds, each with its place in words; `shape` as in FileKind.

    UserError names the place of what is not JSON.
    """
    pieces = read_text(path, replaced)
    if shape == "lines":
        yield from records_in_lines(path, pieces)
        return
    found = 0
    try:
        for value in values_of(JsonText(pieces), shape):
            found += 1
            yield f"{path} item {found}", value
    except ValueError as error:
        raise UserError(
            f"{path} is not whole JSON: it goes wrong after item {found} ({error}); mend it there."
        ) from error


def values_of(text: JsonText, shape: str) -> Iterator[Any]:
    """The rows of a text of JSON. ValueError where it is none."""
    if shape == "list":
        yield from text.items()
        if text.peek():
            raise ValueError("more follows the end of the list")
    elif shape == "values":
        while text.peek():
            yield text.value()
    else:
        wanted = shape.removeprefix("member ")
        for name in text.members():
            if name == wanted:
                yield from text.items()
                return
            text.value()


def records_in_lines(path: Path, pieces: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """A value a line; blank lines are passed over."""
    number = 0
    try:
        for number, line in enumerate(lines_of(pieces), 1):
            if line.strip():
                yield f"{path} line {number}", parse_json(line)
    except ValueError as error:
        raise UserError(f"{path} line {number} is not JSON ({error}); mend or remove the line.") from error


def read_csv_documents(
    path: Path, kind: FileKind, text_field: str, replaced: Replaced, empty: Empty
) -> Iterator[Document]:
    """One document per row of CSV, whose first row names the columns; `empty` is called with the number of rows that
    end before the column. UserError names file and line of what is wrong."""
    if text_field not in kind.fields:
        names = name_some(kind.fields)
        raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
    place, nulls = kind.fields.index(text_field), 0
    for where, row in csv_records(path, kind, replaced):
        if any(row[len(kind.fields) :]):
            raise UserError(
                f"{where} has {len(row)} cells where the first row has {len(kind.fields)}; put the text in quotes, or "
                "set data.format to text if this is no CSV."
            )
        if place < len(row):
            yield from filter(None, [document(where, row[place])])
        else:
            nulls += 1
    empty(path, nulls)


def csv_records(path: Path, kind: FileKind, replaced: Replaced) -> Iterator[tuple[str, list[str]]]:
    """The rows of CSV but for the first and empty ones, each with its place in words."""
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(lines_of(read_text(path, replaced)), delimiter=kind.delimiter, strict=True)
    try:
        next(rows, None)
        yield from ((f"{path} line {rows.line_num}", row) for row in rows if row)
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path} line {rows.line_num} is not CSV ({error}); mend it there.") from error
