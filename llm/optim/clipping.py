"""Gradient clipping by the norm over all parameters (Pascanu et al. 2013)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from llm.shards import local_part

SOFTENING = 1e-6


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float, group: Any = None) -> Tensor:
    """Scale the gradients down to `max_norm` if their joint Euclidean norm exceeds it; return the norm before scaling.

    The factor is max_norm/(norm + 1e-6). max_norm 0 only measures. A non-finite norm leaves the gradients unchanged.
    Parameters without a gradient are skipped. The norm is a 0-D tensor on the device, in float32 or wider; nothing here
    waits for its value.

    group: the ranks that share the parameters, of which each holds parts (`llm.shards`); the norm is over all parts.
    """
    gradients = [local_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if group is not None:
        total = norm.square()
        torch.distributed.all_reduce(total, group=group)
        norm = total.sqrt()
    if max_norm:
        exceeds = torch.isfinite(norm) & (norm > max_norm)
        torch._foreach_mul_(gradients, torch.where(exceeds, max_norm / (norm + SOFTENING), 1.0))
    return norm
