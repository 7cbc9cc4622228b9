"""Updates that a boolean on the device enables or disables, without synchronizing with the host.

`ok` is a 0-D bool tensor, or None for "always". The functions select with `torch.where` instead of multiplying by `ok`,
because NaN·0 is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor


def assign_where(target: Tensor, value: Tensor, ok: Tensor | None) -> None:
    """target ← value if ok, in place."""
    target.copy_(value if ok is None else torch.where(ok, value, target))


def zero_unless(gradients: list[Tensor], ok: Tensor | None) -> list[Tensor]:
    """The gradients if ok, otherwise zeros."""
    return gradients if ok is None else [torch.where(ok, gradient, 0.0) for gradient in gradients]


def scalar_where(value: float, idle: float, ok: Tensor | None, like: Tensor) -> Tensor | float:
    """`value` if ok, otherwise `idle`: a 0-D tensor with device and dtype of `like`, or a number if `ok` is None."""
    if ok is None:
        return value
    return torch.where(ok, torch.full_like(like, value), torch.full_like(like, idle))
