"""Text with its tokens made visible: each on a background of its own, white space drawn, ids on demand."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from textual.content import Content
from textual.style import Style

from workbench.text import clean

if TYPE_CHECKING:
    from llm.tokenizer import Tokenizer

BACKGROUNDS = ("primary", "accent", "success", "secondary", "error")
"""The theme's colours that neighbouring tokens take in turn."""

PART = "░"  # a token that only begins a character, which the last token of that character then shows
DRAWN = str.maketrans({" ": "·", "\n": "↵\n", "\t": "⇥"})
CARRIER = "◌"  # what an accent stands on that begins a token


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Each id with the text to show for it, safe for a terminal: never empty, white space still as it is.

    A character whose bytes lie in several tokens is shown with its last one; those before are `PART`.
    """
    from llm.tokenizer import StreamDecoder

    special = {token: text for text, token in tokenizer.special_tokens.items()}
    decoder = StreamDecoder(tokenizer, continuing=True)
    for token in ids:
        text = clean(special.get(token) or decoder.feed(token))
        if text and unicodedata.category(text[0]).startswith("M"):
            text = CARRIER + text
        yield token, text or PART


def coloured(tokenizer: Tokenizer, ids: Iterable[int], *, with_ids: bool = False, monochrome: bool = False) -> Content:
    """The tokens side by side; `monochrome` parts them with bars, where there are no colours to tell them apart."""
    parts: list[tuple[str, str | Style]] = []
    for place, (token, text) in enumerate(pieces(tokenizer, ids)):
        style = f"$text on ${BACKGROUNDS[place % len(BACKGROUNDS)]} 35%" if not monochrome else ""
        shown, line_end = text.translate(DRAWN), ""
        while shown.endswith("\n"):  # the colour ends with the token, not with the line
            shown, line_end = shown[:-1], line_end + "\n"
        parts.append((shown, style))
        if with_ids:
            parts.append((f" {token} ", f"dim {style}".strip()))
        if monochrome:
            parts.append(("|", "dim"))
        parts.append((line_end, ""))
    return Content.assemble(*(part for part in parts if part[0]))


def quoted(tokenizer: Tokenizer, token: int) -> str:
    """One token by itself, safe for a terminal, white space drawn, bytes that are no characters as \\xNN."""
    special = {number: text for text, number in tokenizer.special_tokens.items()}
    text = special.get(token) or tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
    return clean(text).translate(DRAWN).replace("↵\n", "↵")
