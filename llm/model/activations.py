"""Activation functions for training on a CPU whose forward pass also computes the derivative.

The derivative overwrites the input, and the backward pass multiplies it by the gradient in place: each takes one pass
over memory, and the backward pass allocates nothing. PyTorch raises an error if another operation has saved the input
for its own backward pass. Values are computed in float32 or wider, in blocks that stay in a CPU's cache. GELU uses the
sigmoid, since PyTorch's tanh takes three times as long as its exponential on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_SIZE = 1 << 17  # elements computed at once; a few such blocks fit in a core's cache
SCALE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def gelu_for_training(x: Tensor) -> Tensor:
    """GELU by the tanh approximation of x (...), which is overwritten."""
    y: Tensor = Gelu.apply(x.contiguous())  # type: ignore[no-untyped-call]
    return y


def swiglu_for_training(x: Tensor) -> Tensor:
    """silu(gate)·up of x = (gate, up), which is overwritten: (..., 2F) → (..., F)."""
    y: Tensor = SwiGLU.apply(x.contiguous())  # type: ignore[no-untyped-call]
    return y


class Gelu(torch.autograd.Function):
    """x·s with s = σ(u) and u = SCALE·(x + CUBIC·x³), which equals ½x(1 + tanh(u/2)).

    Its derivative is s + x·u′·s(1 − s), with x·u′ = 3u − 2·SCALE·x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        scale = torch.tensor(SCALE, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for part, y_part in blocks(x, y):
            wide = at_least_float32(part)
            u = torch.addcmul(scale, wide, wide, value=SCALE * CUBIC).mul_(wide)
            third = torch.sub(u, wide, alpha=2 * SCALE / 3)  # x·u′/3
            s = u.sigmoid_()
            torch.mul(wide, s, out=y_part)
            torch.add(s, torch.ops.aten.sigmoid_backward.default(third, s), alpha=3, out=part)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        result: Tensor = derivative.detach().mul_(gradient)
        return result


class SwiGLU(torch.autograd.Function):
    """silu(gate)·up. The derivatives are (silu(gate) + s·(1 − silu(gate)))·up and silu(gate), with s = σ(gate)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        width = x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], width)
        for part, y_part in blocks(x, y):
            gate, up = at_least_float32(part).chunk(2, dim=-1)
            s = torch.sigmoid(gate)
            silu = gate * s
            torch.mul(silu, up, out=y_part)
            part[:, :width] = torch.lerp(silu, silu.new_ones(()), s).mul_(up)
            part[:, width:] = silu
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (derivatives,) = ctx.saved_tensors
        result: Tensor = derivatives.detach()
        result.unflatten(-1, (2, -1)).mul_(gradient.unsqueeze(-2))
        return result


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is a half-precision tensor, otherwise `x` itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def blocks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of two contiguous tensors (..., width), as views (rows, width)."""
    size = max(1, BLOCK_SIZE // x.shape[-1])
    return zip(*(tensor.view(-1, tensor.shape[-1]).split(size) for tensor in (x, y)), strict=True)
