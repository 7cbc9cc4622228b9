"""Prefill and decoding with a KV cache: the context window, and blocks that make results reproducible.

**Context window.** A prompt longer than the context keeps its last tokens. When the text then grows past the context,
its oldest half is dropped and the rest is read again from position 0. The window depends only on the lengths of prompt
and text, so it is the same with and without a cache, and for rotary and learned positions.

**Reproducibility.** Prompts are read in blocks that begin at multiples of `BLOCK`, and a later prompt reuses the cache
in whole blocks. Matrix products of different shapes round differently. With fixed blocks, a reply does not depend on
earlier prompts, to the last bit, and can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm.engine import static
from llm.model.attention import KVCache
from llm.model.packed import InferenceModel

BLOCK = 128


class Canceled(Exception):
    """Raised between two blocks when the caller cancels."""


def window_start(length: int, prompt_length: int, context: int) -> int:
    """Index of the first token in the model's window, for a text of `length` tokens that began with a prompt."""
    start = max(0, prompt_length - context)
    overflow = length - start - context
    half = max(1, context // 2)
    return start if overflow <= 0 else start + half * -(-overflow // half)


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """The length of the longest common prefix."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Reader:
    """Computes logits with the KV cache of `batch_size` texts of equal length.

    Call `begin` with a prompt, then `read` with the whole text each time it has grown.
    """

    def __init__(self, model: InferenceModel, batch_size: int = 1, *, use_cache: bool = True) -> None:
        device, dtype = model.head_weight.device, model.cache_dtype
        self._model = model
        self._cache = KVCache(model.config, batch_size, device=device, dtype=dtype) if use_cache else None
        self.context = model.config.context
        self._step: static.StaticStep | None = None
        self._start = 0
        self._blocks: tuple[int, ...] = ()

    def begin(self, prompt: Sequence[int], start: int) -> int:
        """Prepare to read `prompt` from token `start` on.

        Keeps the blocks of the cache that begin the prompt, and returns the number of tokens in them.
        """
        if self._cache is None:
            return 0
        window = tuple(prompt[start:])
        shared = shared_length(self._blocks, window)
        shared = min(shared, self._cache.length, len(window) - 1) // BLOCK * BLOCK
        self._cache.truncate(shared)
        self._start = start
        self._blocks = window[: len(window) // BLOCK * BLOCK]
        return shared

    @torch.no_grad()
    def read(self, tokens: Tensor, start: int, cancel: Callable[[], bool] = lambda: False) -> Tensor:
        """Logits (B, V) of the token after `tokens` (B, T) int64, whose window begins at index `start`.

        With a cache, `tokens` must continue the text read before, unless `start` changed. `cancel` is called between
        two blocks; Canceled if it returns true.
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
            block = tokens[:, start + read : start + read + BLOCK - read % BLOCK]
            logits = self._read_block(block, self._cache)
            if start + self._cache.length == tokens.shape[1]:
                return logits
            if cancel():
                raise Canceled

    def _read_block(self, block: Tensor, cache: KVCache) -> Tensor:
        """Append `block` (B, T) to the cache; returns the logits (B, V) after it."""
        logits: Tensor
        if block.shape[1] > 1 or not static.is_supported(block.device):
            logits = self._model(block, cache, last_only=True)[:, -1]
            return logits
        self._step = self._step or static.StaticStep(self._model, cache)
        logits = self._step(block, cache.length)
        cache.advance(1)
        return logits

    def rewind(self, length: int) -> bool:
        """Truncate the cache to `length` positions; returns whether it then holds exactly so many."""
        if self._cache is None:
            return False
        self._cache.truncate(min(length, self._cache.length))
        return self._cache.length == length

    @torch.no_grad()
    def read_each(self, block: Tensor) -> Tensor:
        """Append `block` (1, T) int64 to the cache, which must be in use; returns the logits (T, V) after each token.

        If the rows of the model are independent, they have the same bits as with one token after the other.
        """
        assert self._cache is not None
        self._cache.reads_singly = True
        try:
            logits: Tensor = self._model(block, self._cache)
        finally:
            self._cache.reads_singly = False
        return logits[0]

    def expand(self, batch_size: int) -> Reader:
        """A new reader with `batch_size` copies of the one text that this reader has read."""
        copy = Reader.__new__(Reader)
        copy._model, copy.context, copy._start, copy._blocks = self._model, self.context, self._start, ()
        copy._step = None
        copy._cache = None if self._cache is None else self._cache.expand(batch_size)
        return copy

    def select(self, rows: Tensor) -> None:
        """Reorder the batch: row i takes the text of row `rows[i]`; rows (B,) int64."""
        if self._cache is not None:
            self._cache.select(rows)
