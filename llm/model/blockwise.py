"""Causal attention for training on a CPU in bfloat16 or with dropout, one block of queries at a time.

PyTorch's kernels are slow here: in bfloat16 both passes take two to four times as long, and with dropout they store
three tensors of T² numbers per head. This backward pass recomputes the attention weights of long texts and draws the
dropout mask again from its seed, so that memory grows linearly with T (Dao et al. 2022, section 3.1).

Shapes: N batch size times key heads, M query heads per key head, T positions, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.model.counts import BLOCK_ROWS, MAX_SAVED_POSITIONS

MAX_PART_WEIGHTS = 1 << 20  # attention weights computed at once: few enough for a CPU's cache
LEVELS = 1 << 16  # a dropout probability is rounded to a multiple of 1/LEVELS

Part = tuple[slice, int, int]
"""A slice of N, the first query, and the end of the queries (exclusive)."""


def blockwise_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """`kernels.attention` of a whole text: query (B, H, T, D), key and value (B, G, T, D) → (B, H, T, D).

    The scores have the dtype of the inputs; torch.softmax computes in float32 internally. The dropout draws one number
    from PyTorch's default generator.
    """
    y: Tensor = BlockwiseAttention.apply(query, key, value, dropout)  # type: ignore[no-untyped-call]
    return y


class BlockwiseAttention(torch.autograd.Function):
    """Attention with a custom backward pass. The attention weights are saved for it up to MAX_SAVED_POSITIONS
    positions, and recomputed for longer sequences."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        count, width = query.shape[2:]
        scaled = torch.mul(query, width**-0.5, out=query.new_empty(query.shape))
        keys, values = (x.reshape(-1, count, width) for x in (key, value))
        queries = scaled.view(len(keys), -1, count, width)
        output = torch.empty_like(queries)
        ctx.dropout = round(dropout * LEVELS) / LEVELS
        ctx.seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
        masks = DropoutMasks(ctx.dropout, ctx.seed)
        saved = []
        for part in parts(queries):
            heads, start, stop = part
            weights = attention_weights(queries, keys, part)
            if count <= MAX_SAVED_POSITIONS:
                saved.append(weights)
            if dropout:
                weights = weights * masks.next_like(weights)
            output[heads, :, start:stop] = (weights @ values[heads, :stop]).unflatten(1, (-1, stop - start))
        if dropout:
            output /= 1 - ctx.dropout
        ctx.save_for_backward(queries, keys, values, output, *saved)
        return output.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of the scores is P∘(dP − Σ dP∘P), with weights P, dropout mask M (0 or 1/(1 − p)),
        output Y and dP = M∘(dY Vᵀ). Σ dP∘P equals Σ dY∘Y, where Y includes the dropout.
        """
        queries, keys, values, output, *saved = ctx.saved_tensors
        (gradient,) = gradients
        batch, width = len(gradient), queries.shape[-1]
        grad_output = gradient.reshape(queries.shape)
        sums = (grad_output * output).sum(-1, keepdim=True)
        if ctx.dropout:
            grad_output = grad_output / (1 - ctx.dropout)
        grad_query, grad_key, grad_value = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        masks = DropoutMasks(ctx.dropout, ctx.seed)
        for number, part in enumerate(parts(queries)):
            heads, start, stop = part
            weights = saved[number] if saved else attention_weights(queries, keys, part)
            grad_rows = grad_output[heads, :, start:stop].flatten(1, 2)
            grad_scores = grad_rows @ values[heads, :stop].mT
            dropped = weights
            if ctx.dropout:
                mask = masks.next_like(weights)
                grad_scores *= mask
                dropped = mask.mul_(weights)
            grad_value[heads, :stop] += dropped.mT @ grad_rows
            grad_scores -= sums[heads, :, start:stop].flatten(1, 2)
            grad_scores *= weights
            grad_query[heads, :, start:stop] = (grad_scores @ keys[heads, :stop]).unflatten(1, (-1, stop - start))
            grad_key[heads, :stop] += grad_scores.mT @ queries[heads, :, start:stop].flatten(1, 2)
        grad_query *= width**-0.5
        return grad_query.view(gradient.shape), *(x.unflatten(0, (batch, -1)) for x in (grad_key, grad_value)), None


def parts(queries: Tensor) -> Iterator[Part]:
    """The parts of queries (N, M, T, D), in the order in which both passes compute them and draw dropout masks."""
    total, shared, count, _ = queries.shape
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        size = max(1, MAX_PART_WEIGHTS // (shared * (stop - start) * stop))
        for first in range(0, total, size):
            yield slice(first, min(first + size, total)), start, stop


def attention_weights(queries: Tensor, keys: Tensor, part: Part) -> Tensor:
    """softmax(QKᵀ) of one part with the causal mask: (n, M·(stop − start), stop)."""
    heads, start, stop = part
    size = stop - start
    scores = queries[heads, :, start:stop].flatten(1, 2) @ keys[heads, :stop].mT
    causal_bias = torch.full((size, size), -torch.inf, dtype=scores.dtype).triu(1)
    scores.unflatten(1, (-1, size))[..., start:] += causal_bias
    return torch.softmax(scores, dim=-1)


class DropoutMasks:
    """Masks that are 0 with probability `dropout` and 1 otherwise; the same seed gives the same sequence of masks.

    Each element uses 16 random bits: torch.bernoulli takes five times as long on a CPU.
    """

    def __init__(self, dropout: float, seed: int) -> None:
        self.threshold = round(dropout * LEVELS) - LEVELS // 2
        self.generator = torch.Generator().manual_seed(seed)

    def next_like(self, weights: Tensor) -> Tensor:
        """The next mask, in the shape and dtype of `weights`."""
        words = torch.empty(weights.numel() // 4 + 1, dtype=torch.int64).random_(
            -(2**63), None, generator=self.generator
        )
        bits = words.view(torch.int16)[: weights.numel()].view(weights.shape)
        return torch.ge(bits, self.threshold, out=torch.empty_like(weights))
