"""Reading a growing text with a model, each position once: the context rule and the KV cache.

**The context rule.** A prompt longer than the context keeps its last tokens. When the text then grows past the
context, its oldest half is dropped, and the rest is read again from position 0. What the model sees is so a function
of the two lengths alone, the same with a cache and without, for rotary and for learned positions.

**Reading is repeatable.** A prompt is read in blocks that begin at multiples of `BLOCK`, and what a later prompt
shares with it is taken over in whole blocks. Matrix products of other shapes round differently; this way a reply does
not depend, to the last bit, on what was asked before it, and can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from llm.engine import static
from llm.model.attention import KVCache
from llm.model.packed import ReadingModel

BLOCK = 128


class Cancelled(Exception):
    """Reading was given up between two blocks."""


def window_start(length: int, prompt_length: int, context: int) -> int:
    """First token the model sees of a text of `length` tokens, of which `prompt_length` were its prompt."""
    start = max(0, prompt_length - context)
    overflow = length - start - context
    half = max(1, context // 2)
    return start if overflow <= 0 else start + half * -(-overflow // half)


class Reader:
    """A model, and what it has read of `batch_size` texts of equal length."""

    def __init__(self, model: ReadingModel, batch_size: int = 1, *, use_cache: bool = True) -> None:
        device, dtype = model.head_weight.device, model.cache_dtype
        self._model = model
        self._cache = KVCache(model.config, batch_size, device=device, dtype=dtype) if use_cache else None
        self.context = model.config.context
        self._step: static.StaticStep | None = None
        self._start = 0
        self._blocks: tuple[int, ...] = ()

    def begin(self, prompt: Sequence[int], start: int) -> int:
        """Prepare to read `prompt` from its token `start` on; returns how many tokens need not be read again."""
        if self._cache is None:
            return 0
        window = tuple(prompt[start:])
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._blocks, window, strict=False)))
        shared = min(shared, self._cache.length, len(window) - 1) // BLOCK * BLOCK
        self._cache.truncate(shared)
        self._start = start
        self._blocks = window[: len(window) // BLOCK * BLOCK]
        return shared

    @torch.no_grad()
    def read(self, tokens: Tensor, start: int, cancelled: Callable[[], bool] = lambda: False) -> Tensor:
        """Logits (B, V) of what follows `tokens` (B, T) int64, seen from position `start` on.

        With a cache, `tokens` must continue what was read before, unless `start` moved. Raises Cancelled.
        """
        logits: Tensor
        if self._cache is None:
            logits = self._model(tokens[:, start:], last_only=True)[:, -1]
            return logits
        if start != self._start:
            self._cache.truncate(0)
            self._start, self._blocks = start, ()
        while True:
            read = self._cache.length
            piece = tokens[:, start + read : start + read + BLOCK - read % BLOCK]
            logits = self._go_on(piece, self._cache)
            if start + self._cache.length == tokens.shape[1]:
                return logits
            if cancelled():
                raise Cancelled

    def _go_on(self, piece: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) after `piece` (B, T), which is added to the cache."""
        logits: Tensor
        if piece.shape[1] > 1 or not static.suits(piece.device):
            logits = self._model(piece, cache, last_only=True)[:, -1]
            return logits
        self._step = self._step or static.StaticStep(self._model, cache)
        logits = self._step(piece, cache.length)
        cache.advance(1)
        return logits

    def expand(self, batch_size: int) -> Reader:
        """A reader of `batch_size` texts that begin with the one read here, which itself stays as it is."""
        copy = Reader.__new__(Reader)
        copy._model, copy.context, copy._start, copy._blocks = self._model, self.context, self._start, ()
        copy._step = None
        copy._cache = None if self._cache is None else self._cache.expand(batch_size)
        return copy

    def select(self, rows: Tensor) -> None:
        """Text i becomes what text `rows[i]` was; rows (B,) int64."""
        if self._cache is None:
            return
        filled = slice(0, self._cache.length)
        self._cache.both[:, :, :, filled] = self._cache.both[:, rows, :, filled]
