"""Paths as terminals, file managers and shells put them on the clipboard."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import unquote

FILE_ADDRESS = re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)


def pasted_path(text: str) -> str:
    """The path or web address that a pasted text means.

    A text that names a file as it stands is taken as it is. Otherwise white space around it, quotes, the shell's
    backslashes and a file:// address are undone.
    """
    if exists(text):
        return text
    stripped = text.strip()
    if exists(stripped):
        return stripped
    unquoted = one_word(stripped)
    address = FILE_ADDRESS.match(unquoted)
    return unquote(unquoted[address.end() :]) if address else unquoted


def one_word(text: str) -> str:
    """`text` as a shell reads it, where that is one word; else without the quotes around it."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed: an apostrophe in a name
        words = []
    if len(words) == 1:
        return words[0]
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long; a NUL byte; ~ of somebody without a home
        return False
