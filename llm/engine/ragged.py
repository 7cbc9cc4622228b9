"""A KV cache of texts of different lengths, for decoding one token of each at once."""

from __future__ import annotations

import torch
from torch import Tensor

from llm.config.schema import ModelConfig
from llm.model.attention import KVCache


class RaggedCache(KVCache):
    """Keys and values of up to `max_rows` texts of different lengths; rows 0 to `rows` − 1 are in use.

    A forward pass reads one token per row. Call `prepare` before it; `append` and `remove` change the rows between two
    passes. `length` is that of the longest row.
    """

    def __init__(self, config: ModelConfig, max_rows: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, max_rows, device=device, dtype=dtype)
        self.kv.zero_()  # masked values must be finite: 0 * NaN is NaN
        self.lengths: list[int] = []
        self.positions = torch.arange(self.capacity, device=device)
        self.at = torch.empty(0, dtype=torch.int64, device=device)

    @property
    def rows(self) -> int:
        """The number of texts."""
        return len(self.lengths)

    @property
    def start(self) -> Tensor:
        """The position of the next token of each row, (rows, 1) int64."""
        return self.at.unsqueeze(-1)

    def append(self, cache: KVCache) -> None:
        """Add a row with a copy of `cache`, which holds one text."""
        self.kv[:, self.rows, :, : cache.length] = cache.kv[:, 0, :, : cache.length]
        self.tokens[self.rows, : cache.length] = cache.tokens[0, : cache.length]
        self.lengths.append(cache.length)

    def remove(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last, length = self.rows - 1, self.lengths[-1]
        if row != last:
            self.kv[:, row, :, :length] = self.kv[:, last, :, :length]
            self.tokens[row, :length] = self.tokens[last, :length]
            self.lengths[row] = length
        self.lengths.pop()

    def prepare(self) -> None:
        """Set the positions and the mask for a forward pass that reads one token of every row."""
        self.length = max(self.lengths)
        self.at = torch.tensor(self.lengths, device=self.kv.device)
        used = self.positions[: self.length + 1]
        self.attn_mask = (used <= self.at.unsqueeze(-1)).view(self.rows, 1, 1, -1)

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.store_kv(layer, torch.cat((key, value), dim=1)).chunk(2, dim=1)
        return keys.to(key.dtype), values.to(value.dtype)

    def store_kv(self, layer: int, kv: Tensor) -> Tensor:
        """Write (rows, 2·n_kv_head, 1, head_dim) at each row's next position; return those of the layer, (rows,
        2·n_kv_head, length + 1, head_dim)."""
        stored = self.kv[layer, : self.rows, :, : self.length + 1]
        at = self.at.view(-1, 1, 1, 1).expand(-1, kv.shape[1], 1, kv.shape[3])
        return stored.scatter_(2, at, kv.to(stored.dtype))

    def store_tokens(self, tokens: Tensor, before: int) -> Tensor:
        stored, at = self.tokens[: self.rows], self.at.unsqueeze(-1)
        stored.scatter_(1, at, tokens)
        places = at + torch.arange(-before, 0, device=at.device)
        return stored.gather(1, places.clamp(min=0)).where(places >= 0, -1)

    def advance(self, count: int) -> None:
        """Mark one more position of every row as filled."""
        self.lengths = [length + count for length in self.lengths]
