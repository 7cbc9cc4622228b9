"""The bytes of text behind tokens, which bits per byte counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm.tokenizer.base import Tokenizer

Ids = NDArray[np.integer]


class TextBytes:
    """The bytes of text of each token, given the token before it.

    `Tokenizer.dummy_prefix`, which encoding adds, is not text: it does not count in a token after a special token or
    after `beginning`, the id to use where no token precedes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`lengths[id]`: the bytes of an id, dummy prefix included; 0 for special tokens."""
        self._tokenizer, self.beginning = tokenizer, tokenizer.vocab_size
        table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        prefix = tokenizer.dummy_prefix
        self.lengths = np.array([len(raw) for raw in table], dtype=np.int64)
        self._prefix_lengths = np.array([len(prefix) if raw.startswith(prefix) else 0 for raw in table], dtype=np.int64)
        self._starts_text = np.zeros(tokenizer.vocab_size + 1, dtype=np.bool_)
        self._starts_text[[*tokenizer.special_tokens.values(), self.beginning]] = True

    def counts(self, tokens: Ids, before: Ids) -> NDArray[np.int64]:
        """Bytes of text of each of `tokens`, given the ids `before` them. All three arrays have the same shape."""
        counts: NDArray[np.int64] = self.lengths[tokens] - self._prefix_lengths[tokens] * self._starts_text[before]
        return counts

    def text(self, tokens: Ids, before: Ids) -> bytes:
        """The text of `tokens`, a row of ids, given the ids `before` them."""
        parts = [self._tokenizer.token_bytes(token) for token in tokens.tolist()]
        for place in np.flatnonzero(self.counts(tokens, before) < self.lengths[tokens]):
            parts[place] = parts[place].removeprefix(self._tokenizer.dummy_prefix)
        return b"".join(parts)
