"""The one way into files that somebody else may have written: JSON and TOML, with limits of size and depth.

Every parser of the program goes through here. A text that is too long, nested too deeply, or no JSON or TOML at all
raises `Malformed` (a `ValueError`) with the reason in a few words; a file that is no regular file (a FIFO, a device, a
folder) raises `OSError` before anything waits for it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llm.errors import UserError

MAX_DEPTH = 64  # tables and lists inside one another; what this program writes has no more than 8
MAX_JSON_BYTES = 16 << 20
MAX_TOML_BYTES = 1 << 20
MAX_DIGITS = 100  # of a whole number; Python itself refuses more than 4,300

SIGNS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A JSON string, also one that is cut off, or a bracket."""

MANY_DIGITS = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
TOML_NAME = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
DEEP_KEY = re.compile(rf"^[ \t]*+\[*+[ \t]*+{TOML_NAME}(?:\.[ \t]*+{TOML_NAME}){{{MAX_DEPTH},}}", re.MULTILINE)
"""A dotted TOML key that makes too many tables: tomllib walks along all of them for every line below it."""

WRONG_SHAPE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What taking fields out of a parsed value may raise where the value is of another shape than expected."""


class Malformed(ValueError):
    """A text that is not what it should be, or exceeds a limit. The message is the reason, without the file's name."""


class TooManyOpenFiles(UserError):
    """The process, or the system, may not open another file. Nothing is wrong with the file."""

    def __init__(self, path: Path) -> None:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            f"{path} could not be opened: this process has too many open files (its limit is {most:,}); raise it with "
            "ulimit -n, or close other programs, and try again."
        )


def parse_json(data: bytes | str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON text. Raises `Malformed`, and no other error whatever `data` holds."""
    if len(data) > max_bytes:
        raise Malformed(f"it is longer than {max_bytes:,} bytes")
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if is_nested_too_deeply(raw):
        raise Malformed(f"it is nested more than {MAX_DEPTH} deep")
    try:
        if MANY_DIGITS.search(raw):
            return json.loads(data, parse_int=parse_whole_number)
        return json.loads(data)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise Malformed(str(error)) from None


def parse_json_lines(lines: Sequence[bytes]) -> list[Any]:
    """The values of many short lines at once, much faster than one by one. `Malformed` where any of them is none; how
    deep each is nested is not checked, so take only plain fields out of them."""
    try:
        values: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except (RecursionError, ValueError) as error:
        raise Malformed(str(error)) from None
    return values


def is_nested_too_deeply(data: bytes) -> bool:
    """Whether a JSON text has more than `MAX_DEPTH` lists and objects inside one another. One pass at most."""
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
    """The tables of a TOML text. Raises `Malformed`, and no other error whatever `text` holds."""
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
    """`Malformed` where a parsed value is too deep for code that walks it, or holds a number too long to print."""
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

    `OSError` for anything else, without waiting for it: opening a FIFO would hang until somebody writes to it. With
    `follow` false a link is refused, too. `TooManyOpenFiles` is no `OSError`, so that it is never taken for a fault of
    the file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise TooManyOpenFiles(path) from error
        raise
    try:
        check_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_regular(descriptor: int, path: Path) -> None:
    """`OSError` unless the descriptor is that of a regular file."""
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
    """The JSON value in a file. `OSError` or `Malformed` where there is none."""
    return parse_json(read_bytes(path, max_bytes), max_bytes)


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. `OSError` or `Malformed` where there are none."""
    return parse_toml(read_text(path))


def read_text(path: Path, max_bytes: int = MAX_TOML_BYTES) -> str:
    """The content of a small file of UTF-8. `OSError`; `Malformed` where it is too large or not UTF-8."""
    try:
        return read_bytes(path, max_bytes).decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise Malformed("the file is not UTF-8 text") from None
