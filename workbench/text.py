"""Makes text from models, files and names safe to show in a terminal."""

from __future__ import annotations

import re
import unicodedata

ALLOWED = "\n\t"
REPLACEMENT = 0xFFFD
UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Control, format, surrogate, private-use and unassigned characters, line and paragraph separators."""

NON_JOINER = 0x200C
"""Allowed: it takes no column, and Persian and Indic words need it."""
WIDENER = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")
"""The zero width joiner, variation selector 16 and the skin tones. Terminals disagree about the width of the results: a
family of three joined people takes 2 columns in tmux and 6 in xterm."""
INVISIBLE = 0x034F  # the combining grapheme joiner, which takes no column in any terminal


class _SafeCharacters:
    """The mapping for `str.translate`: code point → the code point to show instead."""

    def __getitem__(self, code: int) -> int:
        character = chr(code)
        if character in ALLOWED or code == NON_JOINER:
            return code
        if code < 0x20:
            return 0x2400 + code  # the picture of that control: ␛ for escape
        if WIDENER.match(character):
            return INVISIBLE
        return REPLACEMENT if unicodedata.category(character) in UNSAFE_CATEGORIES else code


def clean(text: str) -> str:
    """`text` without control sequences, as wide as the sum of its characters. The number of characters stays the same.

    Controls below U+0020, except newline and tab, become their pictures (U+2400 and up). Every other control, format,
    surrogate, private-use or unassigned character, except the zero width non-joiner, becomes U+FFFD. Joiners and
    modifiers of emoji become an invisible character, so that each emoji is shown in its plain form.
    """
    return text if text.isprintable() and not WIDENER.search(text) else text.translate(_SafeCharacters())


def one_line(text: str) -> str:
    """`clean` for a title, a table cell or a name: line breaks and tabs become pictures too."""
    return clean(text).replace("\n", "␊").replace("\t", "␉")
