"""Gradient clipping by the norm over all parameters (Pascanu et al. 2013)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from llm.shards import local_part

EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float, group: Any = None) -> Tensor:
    """Scale the gradients by max_norm/(norm + 1e-6) if the Euclidean norm of all of them exceeds `max_norm`.

    Returns the norm before scaling, a 0-D tensor on the device, without synchronizing with the host. `max_norm` 0 only
    measures. A non-finite norm leaves the gradients unchanged. Parameters without a gradient are skipped.

    group: the process group over which the parameters are sharded (`llm.shards`); the norm is that of whole gradients.
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
        torch._foreach_mul_(gradients, torch.where(exceeds, max_norm / (norm + EPS), 1.0))
    return norm
