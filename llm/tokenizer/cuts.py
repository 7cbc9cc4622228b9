"""Safe cuts: positions at which a long text can be cut so that the parts encode to the same ids as the whole.

BPE splits text into pre-tokens with a regular expression and never merges across them. A cut is safe where a pre-token
ends in any context. These rules hold for the pattern of this project and for those of GPT-2, GPT-4 (cl100k) and GPT-4o
(o200k):

- a space after anything that is not whitespace: no pattern continues from a visible character into a space;
- whitespace after a letter or digit: only punctuation includes a following line break;
- punctuation or a symbol after a letter or digit, but not an apostrophe after a letter ("don't").

Text without such a place (a million spaces, long runs of emoji) stays in one piece.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from unicodedata import category

FindCut = Callable[[str, int], int]
"""find_cut(text, start) -> the last safe cut in text[start:], as an index into text; 0 without one."""

CHUNK_CHARACTERS = 1 << 16


def chunks(pieces: Iterable[str], find_cut: FindCut, size: int = CHUNK_CHARACTERS) -> Iterator[str]:
    """The text of `pieces` in chunks of about `size` characters, cut only where `find_cut` allows."""
    pending = ""
    for piece in pieces:
        for start in range(0, len(piece), size):
            searched = len(pending) if len(pending) >= size else 0
            pending += piece[start : start + size]
            if len(pending) < size:
                continue
            cut = find_cut(pending, searched)
            if cut:
                yield pending[:cut]
                pending = pending[cut:]
    if pending:
        yield pending


def no_cut(text: str, start: int) -> int:
    """For encoders without safe cuts: the text is one chunk."""
    return 0


def last_safe_cut(text: str, start: int) -> int:
    """For BPE with one of the patterns named above."""
    for position in range(len(text) - 1, max(start, 1) - 1, -1):
        if _pre_token_ends(text[position - 1], text[position]):
            return position
    return 0


def _pre_token_ends(left: str, right: str) -> bool:
    if right == " ":
        return not left.isspace()
    before = category(left)[0]
    if before not in "LN":
        return False
    if right.isspace():
        return True
    return category(right)[0] in "PS" and not (before == "L" and right == "'")


def last_cut_between_characters(text: str, start: int) -> int:
    """For encoders of single characters or bytes: anywhere but between the halves of a surrogate pair."""
    return len(text) - 1 if "\ud800" <= text[-1] <= "\udbff" else len(text)


def last_cut_between_words(text: str, start: int) -> int:
    """For SentencePiece: before a single space between two plain characters.

    Stricter than `last_safe_cut`, because its normalizer may rewrite spaces and their neighbors.
    """
    for position in range(len(text) - 2, max(start - 2, 0), -1):
        if text[position] == " " and _is_plain(text[position - 1]) and _is_plain(text[position + 1]):
            return position
    return 0


def _is_plain(character: str) -> bool:
    return character in string.punctuation or (character.isalnum() and category(character)[0] in "LN")
