"""Reading the user's files: bytes, text in bounded pieces, and checksums."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llm.data.text.compressed import EXPANSION, MAGIC_BYTES, compression_of, read_content
from llm.errors import UserError
from llm.files import write_json
from llm.reader import Malformed, load_json, open_file

PIECE_BYTES = 1 << 20
SNIFF_BYTES = 1 << 13
MAX_CHARACTERS_IN_MEMORY = 1 << 24  # a longer document is read as a stream
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its prefix
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
REPLACEMENT = "\ufffd"
STORED_REPLACEMENTS = {"utf-8-sig": b"\xef\xbf\xbd", "utf-16": b"\xfd\xff", "utf-32": b"\xfd\xff\0\0"}
ARCHIVES = (
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
    (b"\x04\x22\x4d\x18", "compressed by lz4: decompress it"),
    (b"\x1f\x9d", "compressed by compress: decompress it"),
    (b"%PDF-", "a PDF: convert it to text"),
)
NOT_TEXT = (
    b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF", b"\x80\x04\x95", b"\x7fELF", b"GGUF\3\0", b"GGUF\2\0", b"\x89PNG\r\n",
    b"\xff\xd8\xff", b"MZ\x90\0", b"SQLite format 3\0",
)  # fmt: skip
"""First bytes of zip, torch, pickle, ELF, GGUF, image and other files, some of which are named .bin."""
GUESS_BYTES = 1 << 16
PARQUET_MAGIC = b"PAR1"
MIN_RECORDED_BYTES = 8 << 20  # hashing a smaller file is faster than recording it
SETTLED_SECONDS = 2.0  # a file changed more recently may change again with the same time stamp

OnReplaced = Callable[[Path, int], None]


class MissingText(UserError):
    """A file or dataset is missing; a dataset tokenized from it may still exist."""


class Document(NamedTuple):
    """One text. Its `pieces` can be iterated once, before the next document is requested; `size_bytes` may be an
    estimate."""

    name: str
    size_bytes: int
    pieces: Iterable[str]


def open_binary(path: Path) -> Any:
    """The file, open for reading bytes; UserError if it cannot be opened."""
    try:
        return open_file(path)
    except OSError as error:
        raise UserError(f"The file {path} cannot be read: {error.strerror}; check its name and permissions.") from error


def open_content(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed if it is compressed; UserError if it cannot be opened."""
    return read_content(path, open_binary(path))


def read_beginning(path: Path, size: int = SNIFF_BYTES) -> bytes:
    """The first `size` bytes of a file's content."""
    with open_content(path) as file:
        return file.read(size)


def content_size(path: Path) -> int:
    """Bytes of a file's content; an estimate if it is compressed."""
    with open_binary(path) as file:
        compressed = compression_of(file.read(MAGIC_BYTES))
    size = path.stat().st_size
    return size * EXPANSION if compressed else size


def encoding_of(beginning: bytes) -> str:
    """The codec of a byte order mark; UTF-8 without one."""
    return next((name for mark, name in ENCODINGS if beginning.startswith(mark)), "utf-8-sig")


def decode_beginning(beginning: bytes) -> str:
    """Text from the beginning of a file, without a truncated last character."""
    return codecs.getincrementaldecoder(encoding_of(beginning))(errors="replace").decode(beginning)


def why_not_text(path: Path) -> str:
    """Why a file is not text, judged by its beginning; "" if it is."""
    return why_bytes_not_text(read_beginning(path))


def why_bytes_not_text(beginning: bytes) -> str:
    """The same for the first bytes of a file."""
    for magic, reason in ARCHIVES:
        if beginning.startswith(magic):
            return reason
    if beginning.startswith(NOT_TEXT):
        return "a binary file"
    if beginning[257:262] == b"ustar":
        return "a tar archive: unpack it"
    encoding = encoding_of(beginning)
    if encoding == "utf-8-sig":
        return "it holds NUL bytes" if b"\0" in beginning else ""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(beginning)
    except UnicodeDecodeError:
        return f"it has the byte order mark of {encoding.upper()} but is not {encoding.upper()}"
    return "it holds NUL bytes" if "\0" in text else ""


def guess_encoding(path: Path) -> str:
    """The likely encoding, as iconv calls it, of a file that is not UTF-8; "" if unknown."""
    beginning = read_beginning(path, GUESS_BYTES)
    other = bytes(byte for byte in beginning if byte >= 0x80)
    if not other or why_bytes_not_text(beginning) or beginning.startswith(PARQUET_MAGIC):
        return ""
    decoder = codecs.getincrementaldecoder("gb18030")()
    try:
        text = decoder.decode(beginning)
    except UnicodeDecodeError:
        return "WINDOWS-1252"
    common = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return "GB18030" if 2 * common >= len(other) / 2 else "WINDOWS-1252"


def is_web_page(path: Path) -> bool:
    """Whether a file begins like HTML: the download of a URL that is not that of the text itself."""
    return decode_beginning(read_beginning(path)).lstrip().lower().startswith(("<!doctype html", "<html"))


def read_text(path: Path, on_replaced: OnReplaced = lambda path, count: None) -> Iterator[str]:
    """A text file in pieces of about a megabyte. A byte order mark selects UTF-8, UTF-16 or UTF-32 and is dropped.

    Invalid bytes become U+FFFD; when reading ends, `on_replaced` is called with their number so far.
    """
    wrong = 0
    with open_content(path) as file:
        beginning = file.read(PIECE_BYTES)
        if reason := why_bytes_not_text(beginning[:SNIFF_BYTES]):
            raise UserError(f"The file {path} is not UTF-8 text ({reason}); convert it or give another file.")
        encoding = encoding_of(beginning)
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        stored = STORED_REPLACEMENTS[encoding]
        try:
            for raw in itertools.chain([beginning], iter(lambda: file.read(PIECE_BYTES), b""), [b""]):
                piece = decoder.decode(raw, final=not raw)
                if REPLACEMENT in piece:
                    wrong += piece.count(REPLACEMENT) - raw.count(stored)
                if piece:
                    yield piece
        finally:
            on_replaced(path, max(0, wrong))


def read_text_documents(path: Path, separator: str, on_replaced: OnReplaced) -> Iterator[Document]:
    """The texts of a file, split at each occurrence of `separator`; the whole file if there is none."""
    pieces = read_text(path, on_replaced)
    first = next(pieces, "")
    if not first:
        return
    second = next(pieces, "")
    whole: Iterable[str] = itertools.chain([first, second], pieces)
    if separator and (separator in first or (second and contains(path, separator))):
        yield from split_documents(path, whole, separator)
    else:
        yield Document(str(path), content_size(path), whole if second else (first,))


def contains(path: Path, separator: str) -> bool:
    """Whether a text file contains `separator`; reads up to the first occurrence."""
    end = ""
    for piece in read_text(path):
        if separator in end + piece:
            return True
        end = (end + piece)[-len(separator) :]
    return False


def split_documents(path: Path, pieces: Iterable[str], separator: str) -> Iterator[Document]:
    """The non-empty texts between separators, stripped of white space.

    The pieces of a text longer than MAX_CHARACTERS_IN_MEMORY are read on demand; its size is given as that of the file.
    """
    parts = split_pieces(pieces, separator)
    for text, ends in parts:
        held, length = [text], len(text)
        while not ends and length <= MAX_CHARACTERS_IN_MEMORY:
            text, ends = next(parts)
            held.append(text)
            length += len(text)
        if ends:
            yield from filter(None, [make_document(path.name, "".join(held).strip())])
            continue
        rest = itertools.chain(held, until_end(parts))
        yield Document(path.name, content_size(path), strip_pieces(rest))
        for _ in rest:
            pass  # read what the consumer of the document did not


def split_pieces(pieces: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """All text but the separators, in order, each part with whether a separator or the end follows it."""
    waiting = ""
    for piece in pieces:
        *whole, waiting = (waiting + piece).split(separator)
        for text in whole:
            yield text, True
        safe = len(waiting) - len(separator) + 1  # a separator may begin after this and end in the next piece
        if safe > 0:
            yield waiting[:safe], False
            waiting = waiting[safe:]
    yield waiting, True


def until_end(parts: Iterator[tuple[str, bool]]) -> Iterator[str]:
    """The parts of one text, including the last."""
    for text, ends in parts:
        yield text
        if ends:
            return


def strip_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a text, stripped of white space at the beginning and end."""
    begun, space = False, ""
    for piece in pieces:
        text = space + (piece if begun else piece.lstrip())
        begun = begun or bool(text)
        kept = text.rstrip()
        space = text[len(kept) :]
        if kept:
            yield kept


def make_document(name: str, text: str | None) -> Document | None:
    """A document of one piece; None if the text is empty. Lone surrogates (JSON allows them) become U+FFFD."""
    if not text:
        return None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        size = len(text.encode())
    return Document(name, size, (text,))


class FileHashes:
    """sha256 of files. Those of large files are recorded in a JSON file by path, size, inode and time of change."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def of(self, path: Path, advance: Callable[[int], None]) -> str:
        """sha256 of the content, hexadecimal. `advance` is called with the number of bytes read."""
        status = path.stat()
        key, stamp = os.fsencode(path.absolute()).hex(), [status.st_size, status.st_ctime_ns, status.st_ino]
        if status.st_size < MIN_RECORDED_BYTES:
            return hash_file(path, advance)
        known = self._known()
        if known.get(key, [])[:-1] == stamp:
            advance(status.st_size)
            return str(known[key][-1])
        digest = hash_file(path, advance)
        if time.time() - status.st_ctime > SETTLED_SECONDS:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, self._known() | {key: [*stamp, digest]})
        return digest

    def _known(self) -> dict[str, list[Any]]:
        try:
            known = load_json(self.record)
        except (OSError, Malformed):
            return {}  # a lost or damaged record only costs hashing again
        entries = known.items() if isinstance(known, dict) else ()
        return {key: entry for key, entry in entries if isinstance(entry, list) and entry}


def hash_file(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while chunk := file.read(PIECE_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
