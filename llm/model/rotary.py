"""Rotary position embedding (Su et al. 2021, RoFormer, eq. 34)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

Pairs = Literal["even-odd", "halves"]


def rotary_angles(head_dim: int, positions: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Angle p·θ^(−2i/head_dim) of position p and pair i: float64 (positions, head_dim/2), float32 on MPS."""
    dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
    exponents = torch.arange(0, head_dim, 2, dtype=dtype, device=device) / head_dim
    return torch.outer(torch.arange(positions, dtype=dtype, device=device), theta**-exponents)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: Pairs) -> Tensor:
    """Turn each pair of coordinates of x (..., T, head_dim) by its position's angle; cos and sin (T, head_dim/2).

    "even-odd" pairs coordinates 2i and 2i+1, "halves" pairs i and i + head_dim/2. Computed in the wider of x and the
    tables, returned in the dtype of x.
    """
    if pairs == "halves":
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
    else:
        first, second = x[..., 0::2], x[..., 1::2]
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
    return turned.to(x.dtype)


class Rotary(nn.Module):
    """Rotates queries and keys by their positions.

    The tables are buffers, so that they follow the module from device to device, but not part of the saved weights.
    They stay float32 in a half-precision module, where far positions would run together, and are exact in float64.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, positions: int, *, theta: float, pairs: Pairs) -> None:
        super().__init__()
        self.head_dim, self.positions, self.theta = head_dim, positions, theta
        self.pairs: Pairs = pairs
        self.register_buffer("cos", torch.empty(positions, head_dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(positions, head_dim // 2), persistent=False)
        self._fill()

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x (B, heads, T, head_dim) at positions start .. start+T−1, rotated."""
        stop = start + x.shape[-2]
        return rotate(x, self.cos[start:stop], self.sin[start:stop], self.pairs)

    def _fill(self) -> None:
        dtype = torch.promote_types(self.cos.dtype, torch.float32)
        angles = rotary_angles(self.head_dim, self.positions, self.theta, self.cos.device)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Moves and casts the module as torch does, then computes the tables anew, where and as they are needed."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill()
        return self
