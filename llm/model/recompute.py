"""Activation recomputation (Chen et al. 2016, https://arxiv.org/abs/1604.06174), also called gradient checkpointing.

A recomputed part keeps only its input for the backward pass, which runs it again. Gradients are equal: the random state
of dropout is restored, and the same operations run on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute_if(wanted: bool, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """part(x); if `wanted` and gradients are needed, its activations are recomputed in the backward pass."""
    if not (wanted and torch.is_grad_enabled()):
        return part(x)
    y: Tensor = checkpoint(part, x, use_reentrant=False)
    return y
