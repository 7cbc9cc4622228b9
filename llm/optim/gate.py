"""Updates that happen, or do not, by a boolean on the device: nothing is read back to decide it.

`ok` is a 0-D bool tensor, or None for "always". Selection is by `torch.where`, never by multiplication: NaN·0 is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor


def put(target: Tensor, value: Tensor, ok: Tensor | None) -> None:
    """target ← value where ok, in place."""
    target.copy_(value if ok is None else torch.where(ok, value, target))


def zeroed(gradients: list[Tensor], ok: Tensor | None) -> list[Tensor]:
    """The gradients where ok, otherwise zeros."""
    return gradients if ok is None else [torch.where(ok, gradient, 0.0) for gradient in gradients]


def scalar(value: float, idle: float, ok: Tensor | None, like: Tensor) -> Tensor | float:
    """`value` where ok, otherwise `idle`: a 0-D tensor beside `like`, or the plain number where nothing is gated."""
    if ok is None:
        return value
    return torch.where(ok, torch.full_like(like, value), torch.full_like(like, idle))
