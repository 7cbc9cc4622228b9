"""The documents in files of rows, JSON or CSV, with one row in memory at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llm.data.text.file_kinds import FileKind, name_some
from llm.data.text.json_text import JsonText, parse_json, split_lines
from llm.data.text.text_files import Document, OnReplaced, make_document, read_text
from llm.errors import UserError

MAX_CELL = 1 << 28  # characters

OnEmpty = Callable[[Path, int], None]


def read_json_documents(
    path: Path, kind: FileKind, text_field: str, on_replaced: OnReplaced, on_empty: OnEmpty
) -> Iterator[Document]:
    """One document per object. Rows whose field is null are skipped, and `on_empty` is called with their number.

    UserError names the file and the position of a row without text in that field, and of invalid JSON.
    """
    nulls = 0
    try:
        for where, record in json_records(path, kind.shape, on_replaced):
            text = record.get(text_field, 0) if isinstance(record, dict) else 0
            if text is None:
                nulls += 1
            elif isinstance(text, str):
                yield from filter(None, [make_document(where, text)])
            else:
                raise no_text_error(where, record, text_field)
    finally:
        on_empty(path, nulls)


def no_text_error(where: str, record: Any, text_field: str) -> UserError:
    """The error of a row without text in the field."""
    fields = name_some(record) if isinstance(record, dict) else "none, it is not an object"
    return UserError(
        f"{where} has no text in the field {text_field!r}; its fields are: {fields} "
        "(data.text_field names the one to use)."
    )


def json_records(path: Path, shape: str, on_replaced: OnReplaced) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON file, each with its position in words; `shape` as in FileKind.

    UserError names the position of invalid JSON.
    """
    pieces = read_text(path, on_replaced)
    return records_in_lines(path, pieces) if shape == "lines" else json_items(path, pieces, shape)


def json_items(path: Path, pieces: Iterable[str], shape: str) -> Iterator[tuple[str, Any]]:
    """The rows of JSON that is not one value per line, each with its position in words; `shape` as in FileKind."""
    number = 0
    try:
        for number, value in enumerate(json_values(JsonText(pieces), shape), 1):
            yield f"{path} item {number}", value
    except ValueError as error:
        raise UserError(f"{path} is invalid JSON after item {number} ({error}); fix it there.") from error


def json_values(text: JsonText, shape: str) -> Iterator[Any]:
    """The rows of a JSON text. ValueError if it is invalid."""
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


def records_in_lines(path: Path, pieces: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """One value per line; blank lines are skipped."""
    for number, line in numbered_lines(path, pieces):
        try:
            value = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); fix or remove the line.") from error
        yield f"{path} line {number}", value


def numbered_lines(path: Path, pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, counted from 1. UserError names one that is too long to be held in memory."""
    number = 0
    try:
        for number, line in enumerate(split_lines(pieces), 1):
            if line.strip():
                yield number, line
    except ValueError as error:
        raise UserError(f"{path} line {number + 1} cannot be read ({error}); fix or remove the line.") from error


def read_csv_documents(
    path: Path, kind: FileKind, text_field: str, on_replaced: OnReplaced, on_empty: OnEmpty
) -> Iterator[Document]:
    """One document per row of CSV, whose first row names the columns; `on_empty` is called with the number of rows that
    end before the column. UserError names the file and the line of an error."""
    if text_field not in kind.fields:
        names = name_some(kind.fields)
        raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
    place, nulls = kind.fields.index(text_field), 0
    for where, row in csv_records(path, kind, on_replaced):
        if any(row[len(kind.fields) :]):
            raise UserError(
                f"{where} has {len(row)} cells where the first row has {len(kind.fields)}; put the text in quotes, or "
                "set data.format to text if this is not CSV."
            )
        if place < len(row):
            yield from filter(None, [make_document(where, row[place])])
        else:
            nulls += 1
    on_empty(path, nulls)


def csv_records(path: Path, kind: FileKind, on_replaced: OnReplaced) -> Iterator[tuple[str, list[str]]]:
    """The rows of CSV without the header and empty rows, each with its position in words."""
    csv.field_size_limit(MAX_CELL)
    rows = csv.reader(split_lines(read_text(path, on_replaced)), delimiter=kind.delimiter, strict=True)
    try:
        next(rows, None)
        yield from ((f"{path} line {rows.line_num}", row) for row in rows if row)
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num} is not CSV ({error}); fix it there.") from error
    except ValueError as error:  # a line too long to be held in memory
        raise UserError(f"{path} line {rows.line_num + 1} cannot be read ({error}); fix or remove the line.") from error
