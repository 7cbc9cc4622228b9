"""Tokens in an array, in memory or memory-mapped, as a TokenSplit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.tokens.shards import Tokens, dtype_for


class ArraySplit:
    """A `TokenSplit` over a one-dimensional integer array, which is not copied.

    `text_bytes`: UTF-8 bytes of the text, for bits per byte. ValueError unless the array is one-dimensional and of
    integers.
    """

    def __init__(self, tokens: NDArray[Any], *, name: str = "training", text_bytes: int = 0) -> None:
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"Tokens must be a one-dimensional array of integers, not {tokens.ndim}-dimensional {tokens.dtype}."
            )
        self.tokens, self.name, self.bytes = tokens, name, text_bytes

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """uint16 or uint32, wide enough for the type of the array."""
        return dtype_for(1 << 16 if self.tokens.dtype.itemsize <= 2 else 1 << 32)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop), (stop - start,). IndexError outside the array, ValueError below 0."""
        if not 0 <= start <= stop <= len(self.tokens):
            raise IndexError(f"Tokens {start} to {stop} are outside the {len(self.tokens)} of the array.")
        part = np.asarray(self.tokens[start:stop])
        if part.size and part.min() < 0:
            raise ValueError(f"Tokens {start} to {stop} hold the id {part.min()}; ids are at least 0.")
        return part.astype(self.dtype, copy=False)
