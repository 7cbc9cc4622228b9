"""Activation recomputation (Chen et al. 2016, https://arxiv.org/abs/1604.06174), also called gradient checkpointing.

A recomputed part saves only its input, and the backward pass runs its forward pass again. Gradients do not change: the
random state of dropout is restored, and the same operations run on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute_if(condition: bool, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x). If `condition` holds and gradients are enabled, the backward pass recomputes its activations."""
    if not (condition and torch.is_grad_enabled()):
        return function(x)
    y: Tensor = checkpoint(function, x, use_reentrant=False)
    return y
