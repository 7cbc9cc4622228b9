"""Several documents in one sequence: attention stays within each, and positions restart at each."""

from __future__ import annotations

from typing import NamedTuple, Self

from torch import Tensor


class Documents(NamedTuple):
    """`positions` int64 (B, T): of each token in its document. `attn_mask` bool (B, 1, T, T): query i attends to the
    keys of its document up to itself."""

    positions: Tensor
    attn_mask: Tensor

    @classmethod
    def from_positions(cls, positions: Tensor) -> Self:
        """The documents of (B, T) positions; each begins at a position 0."""
        number = (positions == 0).cumsum(-1)
        same = number.unsqueeze(-1) == number.unsqueeze(-2)
        return cls(positions, same.tril().unsqueeze(1))
