"""What a file of a corpus holds, by its content: plain text, rows of JSON or CSV, or Parquet."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm.data.compressed import plain_name
from llm.data.jsontext import JsonText
from llm.data.textfiles import PARQUET_MAGIC, decode_beginning, open_content, why_no_text

Reading = Literal["text", "jsonl", "csv", "parquet"]
SNIFFED_BYTES = 1 << 16
LINES_OF_JSON = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".tab")
DELIMITERS = ",;\t|"
CONTAINER = "data"  # the member of an object that holds rows, as Hugging Face's loaders write it


class FileKind(NamedTuple):
    """How a file is read.

    `shape` of JSON: "lines" (a value a line), "list", "values" (one after another, however they are broken into lines)
    or "member NAME" (the list of that name in one object). `delimiter` is that of CSV. `fields`: those of the first
    row, as far as known. `lacks_field`: the file looks like rows, but the first has not the field asked for.
    """

    reading: Reading
    shape: str = ""
    delimiter: str = ""
    fields: tuple[str, ...] = ()
    lacks_field: bool = False


def kind_of(path: Path, given: str, text_field: str) -> FileKind:
    """How to read a file: as `given`, the setting data.format, says, or for "auto" as its content does.

    Files named .jsonl and .ndjson are rows, and lists in files named .json, whatever their fields. Others are rows
    where their content is, and has `text_field`.
    """
    suffix = Path(plain_name(path)).suffix.lower()
    if given in ("text", "parquet"):
        return FileKind("parquet" if given == "parquet" else "text")
    with open_content(path) as file:
        raw = file.read(SNIFFED_BYTES)
    if given == "auto" and (suffix == ".parquet" or raw.startswith(PARQUET_MAGIC)):
        return FileKind("parquet")
    if why_no_text(raw):
        return FileKind("text")  # reading it says what is wrong
    text = decode_beginning(raw)
    if given == "csv" or (suffix in TABLES and given == "auto" and not text.lstrip().startswith(("{", "["))):
        return table_kind(text, suffix, text_field, named=given == "csv")
    found = json_kind(text, text_field, named=given == "jsonl" or suffix in LINES_OF_JSON)
    if given == "jsonl" or suffix in LINES_OF_JSON or (suffix == ".json" and found.shape == "list"):
        return found._replace(reading="jsonl", lacks_field=False)
    return found


def table_kind(text: str, suffix: str, text_field: str, *, named: bool) -> FileKind:
    """CSV, where the first row names the columns."""
    header_line = text.partition("\n")[0]
    delimiter = "\t" if suffix in (".tsv", ".tab") else max(DELIMITERS, key=header_line.count)
    with suppress(csv.Error):
        header = next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter), [])
        fields = tuple(name.strip() for name in header)
        if named or text_field in fields:
            return FileKind("csv", delimiter=delimiter, fields=fields)
        if len(fields) > 1:
            return FileKind("text", delimiter=delimiter, fields=fields, lacks_field=True)
    return FileKind("csv" if named else "text", delimiter=delimiter)


def json_kind(text: str, text_field: str, *, named: bool) -> FileKind:
    """Rows of JSON, or text where there are none; `named`: the file's name says that it holds rows."""
    beginning = text.lstrip()
    if beginning.startswith("["):
        row = first_item(beginning)
        return rows_kind("list", row, text_field, certain=bool(row))
    if not beginning.startswith("{"):
        return FileKind("jsonl", "lines") if named else FileKind("text")
    row, member = first_row(beginning, text_field)
    if member:
        kind = rows_kind(f"member {member}", row, text_field, certain=True)
        return kind if row else kind._replace(reading="jsonl")
    shape, several = shape_of_values(beginning, named=named)
    return rows_kind(shape, row, text_field, certain=several)


def rows_kind(shape: str, row: dict[str, Any], text_field: str, *, certain: bool) -> FileKind:
    """Rows where the first has the field, else text. `certain`: without the field it looks like rows, too."""
    fields = tuple(row)
    if isinstance(row.get(text_field, 0), str | None):
        return FileKind("jsonl", shape, fields=fields)
    return FileKind("text", shape, fields=fields, lacks_field=certain and bool(fields))


def first_item(beginning: str) -> dict[str, Any]:
    """The first item of a list, where it is an object and can be read."""
    with suppress(ValueError):
        item = next(JsonText([beginning]).items(), None)
        return item if isinstance(item, dict) else {}
    return {}


def first_row(beginning: str, text_field: str) -> tuple[dict[str, Any], str]:
    """The first row of a text that begins with an object, and the name of the list in that object that holds the rows.

    The object itself is the row, "" the name, unless it lacks `text_field` and has a list that is called `CONTAINER` or
    whose first item has the field. What cannot be read to its end has as many fields as were found; their values may
    be None.
    """
    row: dict[str, Any] = {}
    member, inside = "", {}
    text = JsonText([beginning])
    with suppress(ValueError):
        for name in text.members():
            row[name] = None
            if text.peek() != "[":
                row[name] = text.value()
                continue
            items: list[Any] = []
            row[name] = items
            if name == CONTAINER and "{" in text.rest[1:].lstrip()[:1]:
                member = name
            for item in text.items():
                if not items and isinstance(item, dict) and (name == member or (not member and text_field in item)):
                    member, inside = name, item
                items.append(item)
    return (inside, member) if member and text_field not in row else (row, "")


def shape_of_values(beginning: str, *, named: bool) -> tuple[str, bool]:
    """Whether objects come in "lines" or as "values" broken into lines at will, and whether a second is seen."""
    text = JsonText([beginning])
    try:
        text.value()
    except ValueError:
        line, newline, _ = beginning.partition("\n")
        broken = newline and not (named and not line.rstrip().endswith(("{", "[", ",", ":")))
        return ("values" if broken else "lines"), False
    rest = text.rest
    first = beginning[: len(beginning) - len(rest)]
    in_lines = "\n" not in first and (not rest.strip() or rest.lstrip(" \t\r").startswith("\n"))
    return ("lines" if in_lines else "values"), rest.lstrip().startswith("{")
