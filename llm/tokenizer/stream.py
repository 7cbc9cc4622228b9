"""From ids that arrive one by one to text, whole characters only."""

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

    A token may end in the middle of a character (Chinese and emoji often do): its bytes wait until the rest arrives,
    and are shown as U+FFFD only once it is certain that it will not.
    """

    def __init__(self, tokenizer: TokenTable, *, continuing: bool = False) -> None:
        """`continuing`: the ids continue a text that is already shown, so a dummy prefix is a real space."""
        self._tokenizer = tokenizer
        self._special_ids = frozenset(tokenizer.special_tokens.values())
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = not continuing

    def feed(self, token_id: int) -> str:
        """The characters that `token_id` completes; often one word, sometimes nothing."""
        data = self._tokenizer.token_bytes(token_id)
        if token_id in self._special_ids:
            self._at_start = True
        elif self._at_start:
            data = data.removeprefix(self._tokenizer.dummy_prefix)
            self._at_start = False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What is left: U+FFFD when the last character never became whole, else nothing."""
        return self._utf8.decode(b"", final=True)
