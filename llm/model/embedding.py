"""The embedding in a graph that torch.compile makes for a CPU, with a gradient that is the same at every call.

Compiled code adds up the gradient of an embedding with atomic additions from all threads, in whatever order they come:
with two threads or more its last bits differ from call to call (torch 2.13.0; found with three runs of four steps). The
eager kernel shares the rows out to the threads instead, and repeats. An operation of our own keeps the compiler from
taking it apart, which `torch.use_deterministic_algorithms` would do as well, but for the whole process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("llm_workbench::embedding_gradient", mutates_args=())
def embedding_gradient(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """Sum of the gradients (..., width) of each row's tokens, int64 (...): (rows, width)."""
    result: Tensor = torch.ops.aten.embedding_dense_backward(gradient, tokens, rows, -1, False)
    return result


@embedding_gradient.register_fake
def _(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    return gradient.new_empty(rows, gradient.shape[-1])


class RepeatableEmbedding(torch.autograd.Function):
    """`F.embedding` whose backward pass is one operation that the compiler leaves whole."""

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


def repeatable_embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Row `tokens[...]` of weight (rows, width): int64 (...) → (..., width), with a gradient that repeats."""
    y: Tensor = RepeatableEmbedding.apply(tokens, weight)  # type: ignore[no-untyped-call]
    return y
