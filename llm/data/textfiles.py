"""Reading other people's files: which ones a path means, their text in bounded pieces, and what identifies them."""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import UserError
from llm.files import write_json
from llm.reader import Malformed, load_json, open_file, parse_json

PIECE_BYTES = 1 << 20
SNIFF_BYTES = 1 << 13
LONGEST_ITEM = 1 << 26  # characters of one item of a JSON list
BEFORE_ITEM = re.compile(r"\s*[\[,]\s*")
TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")  # as pyarrow calls them
REMEMBERED_FROM = 8 << 20  # smaller files are hashed faster than their record is kept
SETTLED_SECONDS = 2.0  # a file changed more recently than this may change again under the same time stamp


class Document(NamedTuple):
    """One text. `pieces` joined are the whole of it and can be iterated once; `size_bytes` may be an estimate."""

    name: str
    size_bytes: int
    pieces: Iterable[str]


def find_files(pattern: str) -> list[Path]:
    """The files a path, folder (all the way down) or glob means, in a fixed order; hidden ones are left out."""
    path = Path(pattern).expanduser()
    if not os.access(path, os.F_OK):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
        return [Path(match) for match in matches if Path(match).is_file()]
    if path.is_dir():
        found = [Path(folder, name) for folder, _, names in walk(path) for name in sorted(names)]
        return [file for file in found if not file.name.startswith(".") and file.is_file() and not is_binary(file)]
    return [path] if path.is_file() else []


def walk(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, without hidden folders and those named in `skip`."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skip)
        yield folder, folders, names


def is_binary(path: Path) -> bool:
    """Whether a file other than Parquet begins with something that is not text (a NUL byte)."""
    with opened(path) as file:
        return path.suffix != ".parquet" and b"\0" in file.read(SNIFF_BYTES)


def is_web_page(path: Path) -> bool:
    """Whether a file begins like HTML, as what is downloaded does where an address was not that of the text itself."""
    with opened(path) as file:
        beginning: bytes = file.read(SNIFF_BYTES)
    return beginning.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def opened(path: Path) -> Any:
    """The file, open for reading bytes; UserError where it cannot be."""
    try:
        return open_file(path)
    except OSError as error:
        raise UserError(f"The file {path} cannot be read: {error.strerror}; check its name and permissions.") from error


def format_of(path: Path, given: str) -> str:
    """text, jsonl or parquet: what `given` says, or "auto" by the file's name. A .json file is text unless it is a
    list."""
    if given != "auto":
        return given
    if path.suffix == ".json" and is_json_list(path):
        return "jsonl"
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(path.suffix, "text")


def is_json_list(path: Path) -> bool:
    with opened(path) as file:
        beginning: bytes = file.read(SNIFF_BYTES)
    return beginning.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def read_documents(
    path: Path, text_field: str, separator: str, replaced: Callable[[Path, int], None], format: str = "auto"
) -> Iterator[Document]:
    """The documents of one file: the objects of JSONL or of a JSON list, rows of Parquet, else the text itself.

    A text file that holds the separator token's text is split there; any other is one document. Bytes that are not
    UTF-8 become U+FFFD, and `replaced` is told how many.
    """
    kind = format_of(path, format)
    if kind == "jsonl":
        yield from read_jsonl(path, text_field, replaced)
    elif kind == "parquet":
        yield from read_parquet(path, text_field, replaced)
    else:
        pieces = read_text(path, replaced)
        first = next(pieces, "")
        if separator and separator in first:
            yield from split_documents(path, prepended(first, pieces), separator)
        elif first:
            size = path.stat().st_size
            whole = prepended(first, pieces)
            yield Document(str(path), size, ("".join(whole),) if size <= PIECE_BYTES else whole)


def read_text(path: Path, replaced: Callable[[Path, int], None]) -> Iterator[str]:
    """A text file in pieces of about a megabyte; a byte-order mark is dropped."""
    if is_binary(path):
        raise UserError(f"The file {path} is not UTF-8 text (it holds NUL bytes); convert it or give another file.")
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    wrong = 0
    with opened(path) as file:
        while True:
            raw = file.read(PIECE_BYTES)
            piece = decoder.decode(raw, final=not raw)
            wrong += piece.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
            if piece:
                yield piece
            if not raw:
                break
    replaced(path, max(0, wrong))


def split_documents(path: Path, pieces: Iterable[str], separator: str) -> Iterator[Document]:
    """The texts between separators, without the white space around them; empty ones are left out."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split(separator)
        yield from filter(None, (document(path.name, text.strip()) for text in whole))
    yield from filter(None, [document(path.name, rest.strip())])


def read_jsonl(path: Path, text_field: str, replaced: Callable[[Path, int], None]) -> Iterator[Document]:
    """One document per object; UserError names file and place where one lacks that field."""
    for where, record in json_records(path, replaced):
        text = record.get(text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            fields = ", ".join(map(str, record)) if isinstance(record, dict) else "none, it is not an object"
            raise UserError(
                f"{where} has no text in the field {text_field!r}; its fields are: {fields} "
                "(data.text_field names the one to use)."
            )
        yield from filter(None, [document(where, text)])


def json_records(path: Path, replaced: Callable[[Path, int], None]) -> Iterator[tuple[str, Any]]:
    """What a file of JSON holds, each with its place in words: the items of a list, or else a value a line.

    UserError names the place of what is not JSON.
    """
    if is_json_list(path):
        for number, item in enumerate(list_items(path, read_text(path, replaced)), 1):
            yield f"{path} item {number}", item
        return
    wrong = 0
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            line = raw.decode(errors="replace")
            wrong += line.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
            try:
                if line.strip():
                    yield f"{path} line {number}", parse_json(line, LONGEST_ITEM)
            except ValueError as error:
                raise UserError(f"{path} line {number} is not JSON ({error}); mend or remove the line.") from error
    replaced(path, max(0, wrong))


def list_items(path: Path, pieces: Iterable[str]) -> Iterator[Any]:
    """The items of one JSON list, as its text comes; only the item at hand is in memory."""
    decode = json.JSONDecoder().raw_decode
    waiting, found = "", 0
    for piece in pieces:
        waiting += piece
        place = 0
        while mark := BEFORE_ITEM.match(waiting, place):
            try:
                item, place = decode(waiting, mark.end())
            except RecursionError:
                raise UserError(f"{path}: item {found + 1} is nested too deeply; correct it or leave it out.") from None
            except ValueError:
                break  # cut off, as far as one can tell: there may be more to come
            found += 1
            yield item
        waiting = waiting[place:]
        if len(waiting) > LONGEST_ITEM:
            break
    if "".join(waiting.split()) not in ("]", "[]"):
        raise UserError(f"{path} is not a whole JSON list: it goes wrong after item {found}; mend it there.")


def read_parquet(
    path: Path, text_field: str, replaced: Callable[[Path, int], None], row_groups: list[int] | None = None
) -> Iterator[Document]:
    """One document per row, read in batches, of all row groups or those given; needs pyarrow.

    Bytes that are not UTF-8, in a column of text or of bytes, become U+FFFD, and `replaced` is told how many.
    """
    wrong = 0
    with opened_parquet(path, text_field) as table:
        for batch in table.iter_batches(batch_size=256, row_groups=row_groups, columns=[text_field]):
            for raw in rows_of_bytes(batch.column(0)):
                text = raw.decode(errors="replace")
                wrong += text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
                yield from filter(None, [document(str(path), text)])
    replaced(path, max(0, wrong))


def rows_of_bytes(column: Any) -> Iterator[bytes]:
    """The rows of a column of text or bytes, as they are stored; nothing where there is none."""
    import pyarrow as arrow

    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (row or b"" for row in column.cast(arrow.large_binary()).to_pylist())


@contextmanager
def opened_parquet(path: Path, text_field: str) -> Iterator[Any]:
    """A pyarrow ParquetFile that has the column, of text or of bytes; whatever is wrong with it in the block is a
    UserError naming it."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow to be read; run: pip install 'llm-workbench[parquet]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            if text_field not in schema.names:
                names = ", ".join(schema.names)
                raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
            check_column(path, schema, text_field)
            yield table
    except (OSError, arrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); check the file.") from error


def check_column(path: Path, schema: Any, text_field: str) -> None:
    """UserError where a column holds neither text nor bytes; it names those that do."""
    given = schema.field(text_field).type
    if holds_text(given):
        return
    others = ", ".join(field.name for field in schema if holds_text(field.type))
    advice = f"set data.text_field to one that does: {others}" if others else "give a file that has some"
    raise UserError(f"The column {text_field!r} of {path} holds {given} and no text; {advice}.")


def holds_text(kind: Any) -> bool:
    """Whether a type of pyarrow's, or that of the values of a dictionary, is text or bytes that may be."""
    return str(kind.value_type if str(kind).startswith("dictionary") else kind) in TEXT_TYPES


def document(name: str, text: str | None) -> Document | None:
    """A document of one piece; None where there is no text. Lone surrogates (JSON allows them) become U+FFFD."""
    if not text:
        return None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        size = len(text.encode())
    return Document(name, size, (text,))


def prepended(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


class FileHashes:
    """sha256 of files, that of large ones remembered in a JSON file by path, size and time of change."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def of(self, path: Path, advance: Callable[[int], None]) -> str:
        """sha256 of the content, hexadecimal. `advance` is told of bytes as they are read."""
        status = path.stat()
        key, stamp = os.fsencode(path.absolute()).hex(), [status.st_size, status.st_mtime_ns]
        if status.st_size < REMEMBERED_FROM:
            return hash_file(path, advance)
        known = self._known()
        if known.get(key, [])[:2] == stamp:
            advance(status.st_size)
            return str(known[key][2])
        digest = hash_file(path, advance)
        if time.time() - status.st_mtime > SETTLED_SECONDS:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, self._known() | {key: [*stamp, digest]})
        return digest

    def _known(self) -> dict[str, list[Any]]:
        try:
            known = load_json(self.record)
        except (OSError, Malformed):
            return {}  # a lost or damaged record only costs hashing again
        return known if isinstance(known, dict) else {}


def hash_file(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(PIECE_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
