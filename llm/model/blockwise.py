"""Causal attention as it trains on a CPU in bfloat16 or with dropout: by blocks of queries, each against the keys that
it can see.

torch's own kernels lose there on two counts: in bfloat16 both passes take two to four times as long, and with dropout
three tensors of T² numbers a head are kept. Here the backward pass forms the weights of long texts anew and draws the
dropout again from its seed, so that memory grows with T alone (Dao et al. 2022, section 3.1).

Shapes: N texts times key heads, M query heads that share a key head, T positions, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.model.counts import BLOCK_ROWS, MOST_KEPT_POSITIONS

PART_NUMBERS = 1 << 20  # weights alive at once: few enough for a CPU's cache
LEVELS = 1 << 16  # a dropout probability is rounded to a multiple of 1/LEVELS

Part = tuple[slice, int, int]
"""Some of the N, and the queries from a start to a stop."""


def blockwise_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """`kernels.attention` of a whole text: query (B, H, T, D), key and value (B, G, T, D) → (B, H, T, D).

    The scores are rounded to the dtype of the inputs; torch.softmax computes in float32 inside. The dropout depends on
    torch's default generator alone, which moves by one number.
    """
    y: Tensor = BlockwiseAttention.apply(query, key, value, dropout)  # type: ignore[no-untyped-call]
    return y


class BlockwiseAttention(torch.autograd.Function):
    """Attention with a backward pass of its own. Weights are kept for short texts only, where they are small."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        count, width = query.shape[2:]
        scaled = torch.mul(query, width**-0.5, out=query.new_empty(query.shape))
        keys, values = (x.reshape(-1, count, width) for x in (key, value))
        queries = scaled.view(len(keys), -1, count, width)
        mixed = torch.empty_like(queries)
        ctx.dropout = round(dropout * LEVELS) / LEVELS
        ctx.seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
        noise = Noise(ctx.dropout, ctx.seed)
        kept = []
        for part in parts(queries):
            heads, start, stop = part
            weights = attention_weights(queries, keys, part)
            if count <= MOST_KEPT_POSITIONS:
                kept.append(weights)
            if dropout:
                weights = weights * noise.like(weights)
            mixed[heads, :, start:stop] = (weights @ values[heads, :stop]).unflatten(1, (-1, stop - start))
        if dropout:
            mixed /= 1 - ctx.dropout
        ctx.save_for_backward(queries, keys, values, mixed, *kept)
        return mixed.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With P the weights, M the dropout and dP = M∘(dY Vᵀ), the scores' gradient is P∘(dP − Σ dP∘P), and the sum is
        that of dY∘Y: the dropout is in both."""
        queries, keys, values, mixed, *kept = ctx.saved_tensors
        (gradient,) = gradients
        batch, width = len(gradient), queries.shape[-1]
        by_mixed = gradient.reshape(queries.shape)
        sums = (by_mixed * mixed).sum(-1, keepdim=True)
        if ctx.dropout:
            by_mixed = by_mixed / (1 - ctx.dropout)
        by_query, by_key, by_value = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        noise = Noise(ctx.dropout, ctx.seed)
        for number, part in enumerate(parts(queries)):
            heads, start, stop = part
            weights = kept[number] if kept else attention_weights(queries, keys, part)
            upper = by_mixed[heads, :, start:stop].flatten(1, 2)
            scores = upper @ values[heads, :stop].mT
            used = weights
            if ctx.dropout:
                mask = noise.like(weights)
                scores *= mask
                used = mask.mul_(weights)
            by_value[heads, :stop] += used.mT @ upper
            scores -= sums[heads, :, start:stop].flatten(1, 2)
            scores *= weights
            by_query[heads, :, start:stop] = (scores @ keys[heads, :stop]).unflatten(1, (-1, stop - start))
            by_key[heads, :stop] += scores.mT @ queries[heads, :, start:stop].flatten(1, 2)
        by_query *= width**-0.5
        return by_query.view(gradient.shape), *(x.unflatten(0, (batch, -1)) for x in (by_key, by_value)), None


def parts(queries: Tensor) -> Iterator[Part]:
    """Both passes walk through (N, M, T, D) in this order, which the dropout follows."""
    total, shared, count, _ = queries.shape
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        size = max(1, PART_NUMBERS // (shared * (stop - start) * stop))
        for first in range(0, total, size):
            yield slice(first, min(first + size, total)), start, stop


def attention_weights(queries: Tensor, keys: Tensor, part: Part) -> Tensor:
    """softmax(QKᵀ) of one part, the future hidden: (n, M·(stop − start), stop)."""
    heads, start, stop = part
    size = stop - start
    scores = queries[heads, :, start:stop].flatten(1, 2) @ keys[heads, :stop].mT
    later = torch.full((size, size), -torch.inf, dtype=scores.dtype).triu(1)
    scores.unflatten(1, (-1, size))[..., start:] += later
    return torch.softmax(scores, dim=-1)


class Noise:
    """0 with the probability `dropout` and otherwise 1, from a seed: the same tensors in the same order every time.

    16 bits decide each: torch's bernoulli takes five times as long on a CPU.
    """

    def __init__(self, dropout: float, seed: int) -> None:
        self.lowest = round(dropout * LEVELS) - LEVELS // 2
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, weights: Tensor) -> Tensor:
        """Zeros and ones in the shape and dtype of `weights`."""
        words = torch.empty(weights.numel() // 4 + 1, dtype=torch.int64).random_(
            -(2**63), None, generator=self.generator
        )
        bits = words.view(torch.int16)[: weights.numel()].view(weights.shape)
        return torch.ge(bits, self.lowest, out=torch.empty_like(weights))
