"""The one place where text from models, files and names is made safe to show in a terminal."""

from __future__ import annotations

import re
import unicodedata

KEPT = "\n\t"
REPLACEMENT = 0xFFFD
UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Controls, format characters, lone surrogates, private, unassigned, separators of lines and paragraphs."""

NON_JOINER = 0x200C
"""Kept: terminals draw it as nothing, in no column, and Persian and Indic words need it."""
WIDENER = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")
"""The zero width joiner, variation selector 16 and the skin tones. Terminals do not agree how wide they make what these
join or change: three people joined to a family are 2 columns in tmux and 6 in xterm."""
NOTHING = 0x034F  # the combining grapheme joiner, which every terminal draws as nothing, in no column


class _Safe:
    """What `str.translate` asks for the code point to show in place of another."""

    def __getitem__(self, code: int) -> int:
        character = chr(code)
        if character in KEPT or code == NON_JOINER:
            return code
        if code < 0x20:
            return 0x2400 + code  # the picture of that control: ␛ for escape
        if WIDENER.match(character):
            return NOTHING
        return REPLACEMENT if unicodedata.category(character) in UNSAFE_CATEGORIES else code


def clean(text: str) -> str:
    """`text` without anything a terminal could obey, and as wide as the sum of its characters: one for each, in place.

    Controls below U+0020, newline and tab excepted, become their pictures (U+2400 and up); every other control, format,
    surrogate, private-use or unassigned character becomes U+FFFD, except the zero width non-joiner. Emoji come in their
    plain form, each for itself, and a joiner becomes a character that is drawn as nothing.
    """
    return text if text.isprintable() and not WIDENER.search(text) else text.translate(_Safe())


def one_line(text: str) -> str:
    """`clean` for a title, a table cell or a name: line breaks and tabs become their pictures too."""
    return clean(text).replace("\n", "␊").replace("\t", "␉")
