"""The one place where text from models, files and names is made safe to show in a terminal."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
REPLACEMENT = 0xFFFD
UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")  # controls, format characters, lone surrogates, private, unassigned


class _Safe:
    """What `str.translate` asks for the code point to show in place of another."""

    def __getitem__(self, code: int) -> int:
        character = chr(code)
        if character in KEPT:
            return code
        if code < 0x20:
            return 0x2400 + code  # the picture of that control: ␛ for escape
        return REPLACEMENT if unicodedata.category(character) in UNSAFE_CATEGORIES else code


def clean(text: str) -> str:
    """`text` without anything a terminal could obey: one visible character for each character, of the same number.

    Controls below U+0020, newline and tab excepted, become their pictures (U+2400 and up); every other control, format,
    surrogate, private-use or unassigned character becomes U+FFFD.
    """
    return text if text.isprintable() else text.translate(_Safe())


def one_line(text: str) -> str:
    """`clean` for a title, a table cell or a name: line breaks and tabs become their pictures too."""
    return clean(text).replace("\n", "␊").replace("\t", "␉")
