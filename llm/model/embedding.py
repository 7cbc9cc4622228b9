"""An embedding whose gradient is deterministic under torch.compile on a CPU.

Compiled code sums the gradient of an embedding with atomic additions from all threads, in no fixed order: with two or
more threads its last bits differ between calls (torch 2.13.0; seen in three runs of four steps). The eager kernel
assigns rows to threads and is deterministic. A custom operation makes the compiler call that kernel;
`torch.use_deterministic_algorithms` would have the same effect, but on the whole process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("llm_workbench::embedding_gradient", mutates_args=())
def embedding_gradient(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """The gradient of the weight (rows, width): for each row, the sum of `gradient` (..., width) over the positions
    where `tokens`, int64 (...), is that row."""
    result: Tensor = torch.ops.aten.embedding_dense_backward(gradient, tokens, rows, -1, False)
    return result


@embedding_gradient.register_fake
def _(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    return gradient.new_empty(rows, gradient.shape[-1])


class DeterministicEmbedding(torch.autograd.Function):
    """`F.embedding` whose backward pass is one custom operation."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = weight.shape[0]
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        (gradient,) = gradients
        return None, embedding_gradient(gradient, tokens, ctx.rows)


def deterministic_embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Row `tokens[...]` of weight (rows, width): int64 (...) → (..., width), with a deterministic gradient."""
    y: Tensor = DeterministicEmbedding.apply(tokens, weight)  # type: ignore[no-untyped-call]
    return y
