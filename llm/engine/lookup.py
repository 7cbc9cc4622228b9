"""Speculative decoding without a draft model: draft tokens are copied from earlier in the text (prompt lookup).

If the last tokens occurred before, the tokens that followed them there are read together with the last one, in one
forward pass (Leviathan et al. 2022, "Fast inference from transformers via speculative decoding"; Saxena 2023, "Prompt
lookup decoding"). A draft token is accepted if it is the token that the sampler draws at its place; there is no
rejection sampling. The rows of a packed model have the same bits in any batch, so the text is the same as without
drafts, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from llm.engine.reader import Reader
from llm.model.packed import InferenceModel, PackedTransformer

NGRAM = 3
"""The number of last tokens that must occur earlier in the text."""


def supports_lookup(model: InferenceModel) -> bool:
    """Whether `model` gives the same bits for several tokens at once as for one after the other."""
    return isinstance(model, PackedTransformer) and model.has_independent_rows


class NgramIndex:
    """Finds what followed the last `NGRAM` tokens of a text at their latest earlier occurrence."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._following: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Append `tokens` to the text."""
        for token in tokens:
            if len(self.tokens) >= NGRAM:
                self._following[tuple(self.tokens[-NGRAM:])] = len(self.tokens)
            self.tokens.append(token)

    def draft(self, count: int) -> list[int]:
        """At most `count` draft tokens to follow the text; none if the last tokens did not occur before."""
        place = self._following.get(tuple(self.tokens[-NGRAM:]))
        return [] if place is None else self.tokens[place : place + count]


class LookupReader:
    """Wraps a `Reader` of one text, and reads up to `max_drafts` draft tokens ahead.

    After a draft of which n tokens were accepted, the next one has at most 2n + 1, so that text that does not repeat
    costs little. The caller keeps `reader`.
    """

    def __init__(self, reader: Reader, max_drafts: int) -> None:
        self.context = reader.context
        self._reader, self._max_drafts = reader, max_drafts
        self._index = NgramIndex()
        self._start = 0
        self._drafts: list[int] = []
        self._rows: list[Tensor] = []
        self._accepted = 0

    def begin(self, prompt: Sequence[int], start: int) -> int:
        """`Reader.begin`."""
        return self._reader.begin(prompt, start)

    def read(self, tokens: Tensor, start: int, cancel: Callable[[], bool] = lambda: False) -> Tensor:
        """`Reader.read`: logits (1, V) after `tokens` (1, T) int64, which each call extends by one token."""
        self._index.extend(tokens[0, len(self._index.tokens) :].tolist())
        if self._drafts and start == self._start and self._drafts[0] == self._index.tokens[-1]:
            self._accepted += 1
            self._drafts.pop(0)
            return self._rows.pop(0)
        return self._read_ahead(tokens, start, cancel)

    def _read_ahead(self, tokens: Tensor, start: int, cancel: Callable[[], bool]) -> Tensor:
        length = tokens.shape[1]
        count = min(self._max_drafts, 2 * self._accepted + 1, self.context - (length - start))
        self._drafts, self._rows, self._accepted = [], [], 0
        is_continued = start == self._start and self._reader.rewind(length - 1 - start)
        self._start = start
        drafts = self._index.draft(count) if is_continued else []
        if not drafts:
            return self._reader.read(tokens, start, cancel)
        block = tokens.new_tensor([[self._index.tokens[-1], *drafts]])
        first, *rows = self._reader.read_each(block).unsqueeze(1).unbind()
        self._drafts, self._rows = drafts, rows
        return first
