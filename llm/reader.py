"""Read untrusted JSON and TOML files, with limits of size and depth.

All parsing of such files goes through this module; the rows of a corpus, which may be larger, are read by
`llm.data.text.json_text`. A text that is too long, nested too deeply, or invalid raises `Malformed` (a
`ValueError`) with the reason; a file that is not regular (a FIFO, a device, a folder) raises `OSError` at once.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO

from llm.errors import UserError

MAX_DEPTH = 64  # nested tables and lists; the files of this program have at most 8
MAX_JSON_BYTES = 16 << 20
MAX_TOML_BYTES = 1 << 20
MAX_DIGITS = 100  # of an integer; Python itself refuses more than 4,300

SIGNS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A JSON string, also one that is cut off, or a bracket."""

ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
MANY_ZEROS = b"0" * (MAX_DIGITS + 1)
TOML_NAME = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
DEEP_KEY = re.compile(rf"^[ \t]*+\[*+[ \t]*+{TOML_NAME}(?:\.[ \t]*+{TOML_NAME}){{{MAX_DEPTH},}}", re.MULTILINE)
"""A dotted TOML key with too many tables: tomllib visits all of them for every line below it."""

DECODER = json.JSONDecoder()

WRONG_SHAPE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""Exceptions of code that takes fields from a parsed value of an unexpected shape."""


class Malformed(ValueError):
    """An invalid text, or one beyond a limit. The message is the reason, without the name of the file."""


class TooManyOpenFiles(UserError):
    """The process or the system has too many open files; the file itself may be fine."""

    def __init__(self, path: Path) -> None:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            f"{path} could not be opened: this process has too many open files (its limit is {most:,}); raise it with "
            "ulimit -n, or close other programs, and try again."
        )


def parse_json(data: bytes | str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON text. Raises only `Malformed`, for any `data`."""
    if len(data) > max_bytes:
        raise Malformed(f"it is longer than {max_bytes:,} bytes")
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if is_nested_too_deeply(raw):
        raise Malformed(f"it is nested more than {MAX_DEPTH} deep")
    try:
        if MANY_ZEROS in raw.translate(ZEROS):  # a long number
            return json.loads(data, parse_int=parse_whole_number)
        if raw.startswith(b'{"') and raw.endswith(b"}"):  # a line of a log, for which json.loads takes longer
            text = raw.decode("utf-8", "surrogatepass")
            value, end = DECODER.raw_decode(text)
            if end == len(text):
                return value
        return json.loads(data)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise Malformed(str(error)) from None


def is_nested_too_deeply(data: bytes) -> bool:
    """Whether a JSON text nests lists and objects more than `MAX_DEPTH` deep."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for sign in SIGNS.finditer(data):
        if sign[0] in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif sign[0] in b"]}":
            depth -= 1
    return False


def parse_whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Malformed(f"it holds a number of {len(text):,} digits")
    return int(text)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises only `Malformed`, for any `text`."""
    if len(text) > MAX_TOML_BYTES:
        raise Malformed(f"it is longer than {MAX_TOML_BYTES:,} bytes")
    if DEEP_KEY.search(text):
        raise Malformed(f"it is nested more than {MAX_DEPTH} deep")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    check_values(tables)
    return tables


def check_values(value: Any) -> None:
    """`Malformed` where a parsed value is nested too deeply, or holds a number that is too long."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise Malformed(f"it is nested more than {MAX_DEPTH} deep")
        if any(isinstance(item, int) and item.bit_length() > 4 * MAX_DIGITS for item in level):
            raise Malformed(f"it holds a number of more than {MAX_DIGITS} digits")
        tables = [item.values() for item in level if isinstance(item, dict)]
        lists = [item for item in level if isinstance(item, list)]
        level, depth = [item for items in (*tables, *lists) for item in items], depth + 1


def open_file(path: Path, *, follow: bool = True) -> BinaryIO:
    """A regular file, open for reading bytes.

    `OSError` for anything else, without blocking: opening a FIFO would wait for a writer. With `follow` false, a
    symbolic link is refused too. `TooManyOpenFiles` is not an `OSError`, since the file may be fine.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise TooManyOpenFiles(path) from error
        raise
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be used: {error}", str(path)) from error
    try:
        check_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_regular(descriptor: int, path: Path) -> None:
    """`OSError` unless the descriptor refers to a regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_bytes(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The content of a file. `OSError` where it cannot be read, `Malformed` where it exceeds `max_bytes`."""
    with open_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Malformed(f"it is longer than {max_bytes:,} bytes")
    return data


def load_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON value of a file. Raises `OSError` or `Malformed`."""
    return parse_json(read_bytes(path, max_bytes), max_bytes)


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `OSError` or `Malformed`."""
    return parse_toml(read_text(path))


def read_text(path: Path, max_bytes: int = MAX_TOML_BYTES) -> str:
    """The content of a small file of UTF-8. `OSError`; `Malformed` where it is too large or not UTF-8."""
    try:
        return read_bytes(path, max_bytes).decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise Malformed("the file is not UTF-8 text") from None
