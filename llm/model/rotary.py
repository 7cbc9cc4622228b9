"""Rotary position embedding (Su et al. 2021, RoFormer, eq. 34)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from llm.model.kernels import Pairs
from llm.model.layers import Layer


def rotary_angles(
    head_dim: int, positions: int, theta: float, device: torch.device | None = None, *, inverse: bool = False
) -> Tensor:
    """Angle p·θ^(−2i/head_dim) of position p and pair i: float64 (positions, head_dim/2), float32 on MPS.

    `inverse` gives the negative angles. nanochat rotates by them (commit d575940, `apply_rotary_emb`), and so does
    `NanoChatForCausalLM` of transformers (5.24.0, `rotate_half`); RoFormer and all others rotate by the positive ones.
    """
    dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
    exponents = torch.arange(0, head_dim, 2, dtype=dtype, device=device) / head_dim
    numbers = torch.arange(positions, dtype=dtype, device=device)
    return torch.outer(-numbers if inverse else numbers, theta**-exponents)


def rows(table: Tensor, start: int | Tensor, count: int) -> Tensor:
    """The rows of `table` for `count` tokens. `start` is the first of consecutive positions; or a tensor (1,) on the
    device with the position of a single token; or a tensor (B, T) with the position of each token → (B, T, ...)."""
    if isinstance(start, int):
        return table[start : start + count]
    return table.index_select(0, start) if start.dim() == 1 else table[start]


class Rotary(Layer):
    """Rotates queries and keys by their positions, with `inverse` by the negative angles (`rotary_angles`).

    The tables cos and sin, (positions, head_dim/2), are non-persistent buffers. In a half-precision module they stay
    float32, since half precision cannot tell distant positions apart; in a float64 module they are float64.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, positions: int, *, theta: float, pairs: Pairs, inverse: bool = False) -> None:
        super().__init__()
        self.head_dim, self.positions, self.theta, self.inverse = head_dim, positions, theta, inverse
        self.pairs: Pairs = pairs
        self.register_buffer("cos", torch.empty(positions, head_dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(positions, head_dim // 2), persistent=False)
        self._fill()

    def forward(self, x: Tensor, start: int | Tensor) -> Tensor:
        """Rotate x (B, heads, T, head_dim) by the positions start .. start+T−1, or those of a tensor (`rows`)."""
        count = x.shape[-2]
        cos, sin = rows(self.cos, start, count), rows(self.sin, start, count)
        if cos.dim() == 3:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return self.kernels.rotate(x, cos, sin, self.pairs)

    def _fill(self) -> None:
        dtype = torch.promote_types(self.cos.dtype, torch.float32)
        angles = rotary_angles(self.head_dim, self.positions, self.theta, self.cos.device, inverse=self.inverse)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move and cast the module as PyTorch does, then recompute the tables on the new device and dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill()
        return self
