"""A short causal convolution over the embeddings: the input of the first block mixes each token with the few before it.

It serves as the previous-token head of an induction circuit (Olsson et al. 2022). To continue a repeated "Tom had",
attention matches the current token with the token before each position. Without the convolution, a head of the first
block must learn to copy that token to the position before a head of the second block can match it. Small models learn
this late; with the convolution, ours answers questions about a story after a few hundred steps (docs/performance.md).

The layer follows the "Canon layers" of Allen-Zhu 2025 (Physics of Language Models, part 4.1: causal, depthwise,
residual, four tokens), but is applied once, to the embeddings: decoding needs no state but the ids of the last tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm.model.attention import KVCache


class EmbeddingConvolution(nn.Module):
    """`add_earlier_tokens` with a weight (width − 1, d_model); row j−1 is for the token at distance j."""

    def __init__(self, width: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width - 1, d_model))

    def forward(self, x: Tensor, earlier: Tensor | None, positions: Tensor | None) -> Tensor:
        return add_earlier_tokens(x, earlier, self.weight, positions)


def add_earlier_tokens(x: Tensor, earlier: Tensor | None, weight: Tensor, positions: Tensor | None = None) -> Tensor:
    """y_t = x_t + Σ_j w_j ⊙ x_{t−j}, j = 1 .. n, for embeddings x (B, T, d) and a weight (n, d).

    earlier: the embeddings (B, n, d) before x, 0 where there are none; None: x is the beginning of the text. positions:
    int64 (B, T), the position of each token in its document; tokens of an earlier document are not added.
    """
    before, count = len(weight), x.shape[1]
    earlier = x.new_zeros(x.shape[0], before, x.shape[2]) if earlier is None else earlier
    extended, y = torch.cat((earlier, x), dim=1), x
    for distance in range(1, before + 1):
        shifted = extended[:, before - distance : before - distance + count]
        if positions is not None:
            shifted = shifted * (positions >= distance).unsqueeze(-1)
        y = torch.addcmul(y, weight[distance - 1], shifted)
    return y


def read_earlier_tokens(
    embed: Callable[[Tensor], Tensor], tokens: Tensor, cache: KVCache | None, before: int
) -> Tensor | None:
    """Store `tokens` (B, T) in the cache, and return the embeddings (B, before, d) of the `before` tokens that precede
    them, 0 before the beginning of the text. None without a cache."""
    if cache is None:
        return None
    ids = cache.store_tokens(tokens, before)
    return embed(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)
