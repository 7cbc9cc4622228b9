"""What a file of a corpus holds, by its content: plain text, rows of JSON or CSV, or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm.data.text.compressed import plain_name
from llm.data.text.json_text import JsonText
from llm.data.text.text_files import PARQUET_MAGIC, SNIFF_BYTES, decode_beginning, open_content, read_text, why_no_text

Reading = Literal["text", "jsonl", "csv", "parquet"]
SNIFFED_BYTES = 1 << 16
LINES_OF_JSON = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".tab")
DELIMITERS = ",;\t|"
NAMES_AT_MOST, NAME_CHARACTERS = 20, 60
CONTAINER = "data"  # the member of an object that holds rows, as Hugging Face's loaders write it


def name_some(fields: Iterable[str]) -> str:
    """Names of fields for a sentence: the first of them, where there are many."""
    names = [name if len(name) <= NAME_CHARACTERS else name[:NAME_CHARACTERS] + "…" for name in fields]
    return ", ".join(names if len(names) <= NAMES_AT_MOST else [*names[:NAMES_AT_MOST], "…"])


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
    if why_no_text(raw[:SNIFF_BYTES]):
        return FileKind("text")  # reading it says what is wrong
    text = decode_beginning(raw)
    if given == "csv" or (suffix in TABLES and given == "auto" and not text.lstrip().startswith(("{", "["))):
        return table_kind(text, suffix, text_field, named=given == "csv")
    found = json_kind(path, text.lstrip(), text_field, named=given == "jsonl" or suffix in LINES_OF_JSON)
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


def json_kind(path: Path, beginning: str, text_field: str, *, named: bool) -> FileKind:
    """Rows of JSON, or text where there are none. Reads as far as it takes to tell; `named`: the name of the file says
    that it holds rows."""
    first = beginning[:1] or json_text(path).peek()
    if first == "[":
        row = first_item(json_text(path))
        return rows_kind("list", row, text_field, certain=bool(row))
    if first != "{":
        return FileKind("jsonl", "lines") if named else FileKind("text")
    row, member = first_row(json_text(path), text_field)
    if member:
        return rows_kind(f"member {member}", row, text_field, certain=True)
    if not row and not named:
        return FileKind("text")
    shape, several = shape_of_values(json_text(path), beginning.partition("\n")[0], named=named)
    return rows_kind(shape, row, text_field, certain=several)


def json_text(path: Path) -> JsonText:
    return JsonText(read_text(path, lambda *_: None))


def rows_kind(shape: str, row: dict[str, Any], text_field: str, *, certain: bool) -> FileKind:
    """Rows where the first has the field, else text. `certain`: without the field it looks like rows, too."""
    fields = tuple(row)
    if isinstance(row.get(text_field, 0), str | None):
        return FileKind("jsonl", shape, fields=fields)
    return FileKind("text", shape, fields=fields, lacks_field=certain and bool(fields))


def first_item(text: JsonText) -> dict[str, Any]:
    """The first item of a list, where it is an object."""
    with suppress(ValueError):
        text.take("[")
        if text.peek() == "{":
            item: dict[str, Any] = text.value()
            return item
    return {}


def first_row(text: JsonText, text_field: str) -> tuple[dict[str, Any], str]:
    """The first row of a text that begins with an object, and the name of the list in that object that holds the rows.

    The object itself is the row, "" the name, unless it is the only one, lacks `text_field`, and has a list that is
    called `CONTAINER` or whose first item has the field. Of the object, only the value of the field is kept, in brief.
    """
    row: dict[str, Any] = {}
    inside, member, alone = {}, "", True
    with suppress(ValueError):
        for name in text.members():
            row[name] = ...
            if text.peek() != "[":
                value = text.value()
                row[name] = "" if isinstance(value, str) else value if value is None else ...
                continue
            for number, item in enumerate(text.items()):
                if number == 0 and not member and isinstance(item, dict) and (name == CONTAINER or text_field in item):
                    inside, member = item, name
        alone = not text.peek()
    return (inside, member) if member and alone and text_field not in row else (row, "")


def shape_of_values(text: JsonText, first_line: str, *, named: bool) -> tuple[str, bool]:
    """Whether objects come in "lines" or as "values" broken into lines at will, and whether a second is there."""
    try:
        text.value()
        in_lines = not text.is_broken and text.ends_line()
        return ("lines" if in_lines else "values"), text.peek() == "{"
    except ValueError:
        broken = not named or first_line.rstrip().endswith(("{", "[", ",", ":"))
        return ("values" if broken else "lines"), False
