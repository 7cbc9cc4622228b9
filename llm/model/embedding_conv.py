"""A short convolution over the embeddings: each token sees the few before it already at the input of the first block.

To find "Tom had" again in a text, attention compares tokens with the token before: without the convolution, a head of
the first block has to learn to bring it there before the second can compare. Small models learn that late: with the
convolution ours answers questions about a story after a few hundred steps (docs/performance.md). After the "Canon
layers" of Allen-Zhu 2025 (Physics of Language Models, part 4.1: causal, depthwise, residual, four tokens), but once, at
the embeddings, so that decoding needs no more state than the ids of the last tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm.model.attention import KVCache


class EmbeddingConvolution(nn.Module):
    """`add_earlier_tokens` with a weight (width − 1, d_model): row j−1 for the token j places before."""

    def __init__(self, width: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width - 1, d_model))

    def forward(self, x: Tensor, earlier: Tensor | None, positions: Tensor | None) -> Tensor:
        return add_earlier_tokens(x, earlier, self.weight, positions)


def add_earlier_tokens(x: Tensor, earlier: Tensor | None, weight: Tensor, positions: Tensor | None = None) -> Tensor:
    """y_t = x_t + Σ_j w_j ⊙ x_{t−j}, j = 1 .. n, for embeddings x (B, T, d) and a weight (n, d).

    earlier: the embeddings (B, n, d) before x, 0 where there are none; None: the text begins with x. positions: int64
    (B, T), of each token in its document; those before its position 0 are of another one and not added.
    """
    before, count = len(weight), x.shape[1]
    earlier = x.new_zeros(x.shape[0], before, x.shape[2]) if earlier is None else earlier
    text, y = torch.cat((earlier, x), dim=1), x
    for distance in range(1, before + 1):
        shifted = text[:, before - distance : before - distance + count]
        if positions is not None:
            shifted = shifted * (positions >= distance).unsqueeze(-1)
        y = torch.addcmul(y, weight[distance - 1], shifted)
    return y


def read_earlier_tokens(
    embed: Callable[[Tensor], Tensor], tokens: Tensor, cache: KVCache | None, before: int
) -> Tensor | None:
    """The embeddings (B, before, d) of the tokens in the cache before `tokens` (B, T), which are added to it; 0 where
    the text begins. None without a cache."""
    if cache is None:
        return None
    ids = cache.store_tokens(tokens, before)
    return embed(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)
