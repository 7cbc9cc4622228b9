"""AdamW (Loshchilov & Hutter 2019, algorithm 2), in the form of PyTorch and in that of CS336."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.optim.gate import assign_where, scalar_where, zero_unless
from llm.optim.optimizer import State, Step


@dataclass(frozen=True)
class AdamW:
    """θ ← θ − lr·λ·θ − lr·(m/c₁) / (√(v/c₂) + ε), as in PyTorch.

    m and v are exponential moving averages of g and g²; c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ correct their bias. With
    `eps_inside` the last term is lr·(√c₂/c₁)·m / (√v + ε), as in CS336 (Kingma & Ba 2015, end of section 2). With
    `decay_after` the decay is applied to the updated θ. `fused` updates whole lists of tensors at once.
    """

    beta1: float
    beta2: float
    eps: float
    eps_inside: bool = False
    decay_after: bool = False
    fused: bool = False
    name: ClassVar[str] = "adamw"
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """One step in place; nothing changes if `step.ok` is False."""
        if not self.fused:
            for weight, gradient, m, v in zip(weights, gradients, state["m"], state["v"], strict=True):
                self._update_one(weight, gradient, m, v, step)
        elif self.eps_inside or self.decay_after:
            self._update_lists(weights, gradients, state, step)
        else:
            torch._fused_adamw_(
                weights,
                gradients,
                state["m"],
                state["v"],
                [],
                [step.count] * len(weights),
                amsgrad=False,
                lr=step.lr,
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=step.weight_decay,
                eps=self.eps,
                maximize=False,
                found_inf=None if step.ok is None else step.ok.logical_not().float(),
            )

    def _update_one(self, weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: Step) -> None:
        next_m = self.beta1 * m + (1 - self.beta1) * gradient
        next_v = self.beta2 * v + (1 - self.beta2) * gradient.square()
        rate, eps = self._rate_and_eps(step, weight.dtype)
        change = rate * next_m / (next_v.sqrt() + eps)
        decay_factor = 1 - step.lr * step.weight_decay
        assign_where(m, next_m, step.ok)
        assign_where(v, next_v, step.ok)
        assign_where(
            weight, (weight - change) * decay_factor if self.decay_after else weight * decay_factor - change, step.ok
        )

    def _update_lists(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """The same on whole lists. If `step.ok` is False, gradients and rate are 0, and all factors are 1."""
        m, v, ok, like = state["m"], state["v"], step.ok, step.count.to(weights[0].dtype)
        gradients = zero_unless(gradients, ok)
        rate, eps = self._rate_and_eps(step, like.dtype)
        rate = rate if ok is None else torch.where(ok, rate, 0.0)
        decay_factor = scalar_where(1 - step.lr * step.weight_decay, 1.0, ok, like)
        torch._foreach_mul_(m, scalar_where(self.beta1, 1.0, ok, like))
        torch._foreach_add_(m, gradients, alpha=1 - self.beta1)
        torch._foreach_mul_(v, scalar_where(self.beta2, 1.0, ok, like))
        torch._foreach_addcmul_(v, gradients, gradients, value=1 - self.beta2)
        if not self.decay_after:
            torch._foreach_mul_(weights, decay_factor)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, eps)
        changes = torch._foreach_div(m, denominators)
        torch._foreach_mul_(changes, rate)
        torch._foreach_sub_(weights, changes)
        if self.decay_after:
            torch._foreach_mul_(weights, decay_factor)

    def _rate_and_eps(self, step: Step, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """α and ε of α·m/(√v + ε); PyTorch's form is that of CS336 with ε·√c₂ instead of ε."""
        steps = step.count.to(dtype)
        root = bias_correction(self.beta2, steps).sqrt()
        eps = torch.full_like(root, self.eps) if self.eps_inside else self.eps * root
        return step.lr * root / bias_correction(self.beta1, steps), eps


def bias_correction(beta: float, steps: Tensor) -> Tensor:
    """The bias correction 1 − βᵗ, by expm1: in float32 the direct form loses four digits at first with β = 0.999."""
    return -torch.expm1(steps * (math.log(beta) if beta else -math.inf))
