"""The kind of a file of a corpus, from its content: plain text, rows of JSON or CSV, Parquet or Arrow."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm.data.text.compressed import plain_name
from llm.data.text.json_text import JsonText
from llm.data.text.saved_datasets import is_arrow
from llm.data.text.text_files import (
    PARQUET_MAGIC,
    SNIFF_BYTES,
    decode_beginning,
    open_content,
    read_text,
    why_bytes_not_text,
)

Reading = Literal["text", "jsonl", "csv", "parquet", "arrow"]
SNIFFED_BYTES = 1 << 16
LINES_OF_JSON = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".tab")
DELIMITERS = ",;\t|"
MAX_NAMES, MAX_NAME_CHARACTERS = 20, 60
CONTAINER = "data"  # the member of an object that holds rows, as Hugging Face datasets write it


def name_some(fields: Iterable[str]) -> str:
    """The first names of fields, for a sentence."""
    names = [name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "…" for name in fields]
    return ", ".join(names if len(names) <= MAX_NAMES else [*names[:MAX_NAMES], "…"])


class FileKind(NamedTuple):
    """How a file is read.

    `shape` of JSON: "lines" (one value per line), "list", "values" (one after another, with line breaks anywhere) or
    "member NAME" (the list of that name in one object). `delimiter`: of CSV. `fields`: those of the first row, if
    known. `lacks_field`: the file looks like rows, but the first row lacks the requested field.
    """

    reading: Reading
    shape: str = ""
    delimiter: str = ""
    fields: tuple[str, ...] = ()
    lacks_field: bool = False


def kind_of(path: Path, given: str, text_field: str) -> FileKind:
    """How to read a file: as `given` (the setting data.format), or for "auto" as detected from its content.

    Files named .jsonl and .ndjson, and lists in files named .json, are rows in any case. Other files are rows if the
    content is and has `text_field`.
    """
    suffix = Path(plain_name(path)).suffix.lower()
    if given in ("text", "parquet"):
        return FileKind("parquet" if given == "parquet" else "text")
    with open_content(path) as file:
        raw = file.read(SNIFFED_BYTES)
    if given == "auto" and (suffix == ".parquet" or raw.startswith(PARQUET_MAGIC)):
        return FileKind("parquet")
    if given == "auto" and is_arrow(path.name, raw):
        return FileKind("arrow")
    if why_bytes_not_text(raw[:SNIFF_BYTES]):
        return FileKind("text")  # reading it raises the error
    text = decode_beginning(raw)
    if given == "csv" or (suffix in TABLES and given == "auto" and not text.lstrip().startswith(("{", "["))):
        return table_kind(text, suffix, text_field, named=given == "csv")
    found = json_kind(path, text.lstrip(), text_field, named=given == "jsonl" or suffix in LINES_OF_JSON)
    if given == "jsonl" or suffix in LINES_OF_JSON or (suffix == ".json" and found.shape == "list"):
        return found._replace(reading="jsonl", lacks_field=False)
    return found


def table_kind(text: str, suffix: str, text_field: str, *, named: bool) -> FileKind:
    """CSV if the first row names the columns, else text."""
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
    """Rows of JSON, or text if there are none. Reads as little as possible; `named`: the suffix of the file means
    rows."""
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
    shape, several = values_shape(json_text(path), beginning.partition("\n")[0], named=named)
    return rows_kind(shape, row, text_field, certain=several)


def json_text(path: Path) -> JsonText:
    return JsonText(read_text(path))


def rows_kind(shape: str, row: dict[str, Any], text_field: str, *, certain: bool) -> FileKind:
    """Rows if the first has the field, else text. `certain`: it looks like rows even without the field."""
    fields = tuple(row)
    if isinstance(row.get(text_field, 0), str | None):
        return FileKind("jsonl", shape, fields=fields)
    return FileKind("text", shape, fields=fields, lacks_field=certain and bool(fields))


def first_item(text: JsonText) -> dict[str, Any]:
    """The first item of a list if it is an object, else {}."""
    with suppress(ValueError):
        text.take("[")
        if text.peek() == "{":
            item: dict[str, Any] = text.value()
            return item
    return {}


def first_row(text: JsonText, text_field: str) -> tuple[dict[str, Any], str]:
    """The first row of a text that begins with an object, and the name of the list in that object that holds the rows.

    The object is itself the row, with the name "", unless it is the only one, lacks `text_field`, and has a list that
    is named `CONTAINER` or whose first item has the field. Long values of the object are dropped.
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


def values_shape(text: JsonText, first_line: str, *, named: bool) -> tuple[str, bool]:
    """Whether objects are "lines" or "values" with line breaks anywhere, and whether there is a second object."""
    try:
        text.value()
        in_lines = not text.is_broken and text.ends_line()
        return ("lines" if in_lines else "values"), text.peek() == "{"
    except ValueError:
        broken = not named or first_line.rstrip().endswith(("{", "[", ",", ":"))
        return ("values" if broken else "lines"), False
