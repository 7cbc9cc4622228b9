"""Decode ids one by one, in complete characters."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Protocol


class TokenTable(Protocol):
    """What a decoder needs of a tokenizer (see `llm.tokenizer.base.Tokenizer`)."""

    special_tokens: Mapping[str, int]
    dummy_prefix: bytes

    def token_bytes(self, token_id: int) -> bytes: ...


class StreamDecoder:
    """Decodes a growing list of ids: `feed` each, then `finish` once; the texts joined equal `decode` of the list.

    A token may end inside a character (often in Chinese and emoji): its bytes wait for the rest, and become U+FFFD if
    it never comes.
    """

    def __init__(self, tokenizer: TokenTable, *, continuing: bool = False) -> None:
        """`continuing`: the ids continue an existing text, so a dummy prefix is a real space."""
        self._tokenizer = tokenizer
        self._special_ids = frozenset(tokenizer.special_tokens.values())
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = not continuing

    def feed(self, token_id: int) -> str:
        """The characters that `token_id` completes; may be empty."""
        data = self._tokenizer.token_bytes(token_id)
        if token_id in self._special_ids:
            self._at_start = True
        elif self._at_start:
            data = data.removeprefix(self._tokenizer.dummy_prefix)
            self._at_start = False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """The rest: U+FFFD for an incomplete last character, else nothing."""
        return self._utf8.decode(b"", final=True)
