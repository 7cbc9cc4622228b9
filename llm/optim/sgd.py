"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.optim.gate import assign_where, scalar_where, zero_unless
from llm.optim.optimizer import State, Step


@dataclass(frozen=True)
class SGD:
    """θ ← θ − lr·λ·θ − lr·g, without momentum. `fused` updates whole lists of tensors at once."""

    fused: bool = False
    name: ClassVar[str] = "sgd"
    slots: ClassVar[tuple[str, ...]] = ()

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """One step in place; nothing changes if `step.ok` is False."""
        if not self.fused:
            for weight, gradient in zip(weights, gradients, strict=True):
                assign_where(weight, weight - step.lr * (step.weight_decay * weight + gradient), step.ok)
            return
        if step.weight_decay:
            like = step.count.to(weights[0].dtype)
            torch._foreach_mul_(weights, scalar_where(1 - step.lr * step.weight_decay, 1.0, step.ok, like))
        torch._foreach_add_(weights, zero_unless(gradients, step.ok), alpha=-step.lr)
