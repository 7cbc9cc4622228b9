"""Several documents in one sequence: attention stays within each, and positions restart at each."""

from __future__ import annotations

from typing import NamedTuple, Self

from torch import Tensor


class Documents(NamedTuple):
    """`positions`, int64 (B, T): the position of each token in its document. `attn_mask`, bool (B, 1, T, T): True where
    query i attends to key j, that is, j ≤ i and both are in one document."""

    positions: Tensor
    attn_mask: Tensor

    @classmethod
    def from_positions(cls, positions: Tensor) -> Self:
        """The documents of positions (B, T): a position of 0 begins a new one."""
        document_ids = (positions == 0).cumsum(-1)
        is_same = document_ids.unsqueeze(-1) == document_ids.unsqueeze(-2)
        return cls(positions, is_same.tril().unsqueeze(1))
