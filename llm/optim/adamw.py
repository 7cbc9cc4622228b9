"""AdamW (Loshchilov & Hutter 2019, algorithm 2), in the form of torch and in that of CS336."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.optim.gate import put, scalar, zeroed
from llm.optim.optimizer import State, Step


@dataclass(frozen=True)
class AdamW:
    """m and v are running means of the gradient and of its square, c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ correct their start.

    θ ← θ − lr·λ·θ − lr·(m/c₁) / (√(v/c₂) + ε), as torch; with `eps_inside` lr·(√c₂/c₁)·m / (√v + ε), as CS336. With
    `decay_after` the decay is taken from the updated θ instead. `fused` works on whole lists of tensors at once.
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
        """One step in place; nothing moves where `step.ok` is False."""
        if not self.fused:
            for weight, gradient, m, v in zip(weights, gradients, state["m"], state["v"], strict=True):
                self._written_out(weight, gradient, m, v, step)
        elif self.eps_inside or self.decay_after:
            self._whole_lists(weights, gradients, state, step)
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

    def _written_out(self, weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: Step) -> None:
        next_m = self.beta1 * m + (1 - self.beta1) * gradient
        next_v = self.beta2 * v + (1 - self.beta2) * gradient.square()
        rate, eps = self._rate_and_eps(step, weight.dtype)
        change = rate * next_m / (next_v.sqrt() + eps)
        kept = 1 - step.lr * step.weight_decay
        put(m, next_m, step.ok)
        put(v, next_v, step.ok)
        put(weight, (weight - change) * kept if self.decay_after else weight * kept - change, step.ok)

    def _whole_lists(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """The same, list by list. Where not ok, gradients and rate are 0 and the factors of decay and moments 1."""
        m, v, ok, like = state["m"], state["v"], step.ok, step.count.to(weights[0].dtype)
        gradients = zeroed(gradients, ok)
        rate, eps = self._rate_and_eps(step, like.dtype)
        rate = rate if ok is None else torch.where(ok, rate, 0.0)
        kept = scalar(1 - step.lr * step.weight_decay, 1.0, ok, like)
        torch._foreach_mul_(m, scalar(self.beta1, 1.0, ok, like))
        torch._foreach_add_(m, gradients, alpha=1 - self.beta1)
        torch._foreach_mul_(v, scalar(self.beta2, 1.0, ok, like))
        torch._foreach_addcmul_(v, gradients, gradients, value=1 - self.beta2)
        if not self.decay_after:
            torch._foreach_mul_(weights, kept)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, eps)
        changes = torch._foreach_div(m, denominators)
        torch._foreach_mul_(changes, rate)
        torch._foreach_sub_(weights, changes)
        if self.decay_after:
            torch._foreach_mul_(weights, kept)

    def _rate_and_eps(self, step: Step, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """α and ε of α·m/(√v + ε): torch's form is that of CS336 with ε·√c₂ in the place of ε."""
        steps = step.count.to(dtype)
        root = correction(self.beta2, steps).sqrt()
        eps = torch.full_like(root, self.eps) if self.eps_inside else self.eps * root
        return step.lr * root / correction(self.beta1, steps), eps


def correction(beta: float, steps: Tensor) -> Tensor:
    """1 − βᵗ, by expm1: in float32 the plain form loses four digits at the first steps of β = 0.999."""
    return -torch.expm1(steps * (math.log(beta) if beta else -math.inf))
