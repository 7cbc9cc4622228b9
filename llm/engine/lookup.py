"""Speculative decoding without a second model: drafts are copied from earlier in the text (prompt lookup).

Where the last tokens occurred before, the tokens that followed them there are read together with the last one, in one
pass over the weights (Leviathan et al. 2022, "Fast inference from transformers via speculative decoding"; Saxena 2023,
"Prompt lookup decoding"). The logits after each draft are used only if the sampler, which draws one uniform number per
token, has chosen that draft. Each row of a packed model has the same bits in any batch, so the text is the same as
without drafts, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from llm.engine.reader import Reader
from llm.model.packed import InferenceModel, PackedTransformer

NGRAM = 3
"""Tokens that must occur earlier in the text for a draft."""


def has_exact_drafts(model: InferenceModel) -> bool:
    """Whether reading several tokens at once gives the same bits as reading one after the other."""
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
        """At most `count` tokens that may come next; none where the last tokens are new."""
        place = self._following.get(tuple(self.tokens[-NGRAM:]))
        return [] if place is None else self.tokens[place : place + count]


class LookupReader:
    """A `Reader` of one text that reads up to `longest` drafted tokens ahead.

    A draft is one token longer than twice what was accepted of the last one, so that text that does not repeat costs
    little. `reader` stays the caller's.
    """

    def __init__(self, reader: Reader, longest: int) -> None:
        self.context = reader.context
        self._reader, self._longest = reader, longest
        self._index = NgramIndex()
        self._start = 0
        self._drafts: list[int] = []
        self._rows: list[Tensor] = []
        self._accepted = 0

    def begin(self, prompt: Sequence[int], start: int) -> int:
        """As `Reader.begin`."""
        return self._reader.begin(prompt, start)

    def read(self, tokens: Tensor, start: int, cancel: Callable[[], bool] = lambda: False) -> Tensor:
        """Logits (1, V) of the token after `tokens` (1, T) int64, as of `Reader.read`; each call appends one token."""
        self._index.extend(tokens[0, len(self._index.tokens) :].tolist())
        if self._drafts and start == self._start and self._drafts[0] == self._index.tokens[-1]:
            self._accepted += 1
            self._drafts.pop(0)
            return self._rows.pop(0)
        return self._read_ahead(tokens, start, cancel)

    def _read_ahead(self, tokens: Tensor, start: int, cancel: Callable[[], bool]) -> Tensor:
        length = tokens.shape[1]
        longest = min(self._longest, 2 * self._accepted + 1, self.context - (length - start))
        self._drafts, self._rows, self._accepted = [], [], 0
        is_continued = start == self._start and self._reader.rewind(length - 1 - start)
        self._start = start
        drafts = self._index.draft(longest) if is_continued else []
        if not drafts:
            return self._reader.read(tokens, start, cancel)
        block = tokens.new_tensor([[self._index.tokens[-1], *drafts]])
        first, *rows = self._reader.read_each(block).unsqueeze(1).unbind()
        self._drafts, self._rows = drafts, rows
        return first
