"""Display of tokens: a background color per token, visible white space, and optional ids."""

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
"""Theme colors of successive tokens."""

PART = "░"  # an incomplete character: its last token shows it
DRAWN = str.maketrans({" ": "·", "\n": "↵\n", "\t": "⇥"})
CARRIER = "◌"  # carries a combining mark at the start of a token


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Each id with its text, safe for a terminal and never empty; white space is unchanged.

    A character whose bytes span several tokens is shown with the last one; the others are `PART`.
    """
    from llm.tokenizer import StreamDecoder

    special = {token: text for text, token in tokenizer.special_tokens.items()}
    decoder = StreamDecoder(tokenizer, continuing=True)
    for token in ids:
        text = clean(special.get(token) or decoder.feed(token))
        if text and unicodedata.category(text[0]).startswith("M"):
            text = CARRIER + text
        yield token, text or PART


def color_tokens(
    tokenizer: Tokenizer, ids: Iterable[int], *, with_ids: bool = False, monochrome: bool = False
) -> Content:
    """The tokens in color; `monochrome` separates them with bars instead."""
    parts: list[tuple[str, str | Style]] = []
    for place, (token, text) in enumerate(token_texts(tokenizer, ids)):
        style = f"$text on ${BACKGROUNDS[place % len(BACKGROUNDS)]} 35%" if not monochrome else ""
        shown, line_end = text.translate(DRAWN), ""
        while shown.endswith("\n"):  # the background ends with the token, not with the line
            shown, line_end = shown[:-1], line_end + "\n"
        parts.append((shown, style))
        if with_ids:
            parts.append((f" {token} ", f"dim {style}".strip()))
        if monochrome:
            parts.append(("|", "dim"))
        parts.append((line_end, ""))
    return Content.assemble(*(part for part in parts if part[0]))


def quote_token(tokenizer: Tokenizer, token: int) -> str:
    """A single token, safe for a terminal: visible white space, invalid bytes as \\xNN."""
    special = {number: text for text, number in tokenizer.special_tokens.items()}
    text = special.get(token) or tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
    return clean(text).translate(DRAWN).replace("↵\n", "↵")
