"""Paths as terminals, file managers and shells paste them."""

from __future__ import annotations

import re
import shlex
from urllib.parse import unquote

from llm.files import expand_user

FILE_ADDRESS = re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)


def pasted_path(text: str) -> str:
    """The path or web address in a pasted text.

    The name of an existing file is returned unchanged. Otherwise surrounding white space, quotes, shell escapes and a
    file:// prefix are removed.
    """
    for found in (text, text.strip("\r\n"), text.strip()):
        if exists(found):
            return found
    unquoted = one_word(text)
    address = FILE_ADDRESS.match(unquoted)
    return unquote(unquoted[address.end() :]) if address else unquoted


def one_word(text: str) -> str:
    """`text` as a shell reads it if that is one word, else without surrounding white space and quotes."""
    try:
        words = shlex.split(text)
    except ValueError:  # an unclosed quote, such as an apostrophe in a name
        words = []
    if len(words) == 1:
        return words[0]
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def exists(text: str) -> bool:
    try:
        return bool(text) and expand_user(text).exists()
    except (OSError, ValueError, RuntimeError):  # too long; a NUL byte; ~ of a user without a home
        return False
