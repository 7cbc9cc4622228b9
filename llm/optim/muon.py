"""Muon: momentum SGD with orthogonalized updates (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.device import cpu_multiplies_bf16
from llm.optim.gate import scalar_where, zero_unless
from llm.optim.matrices import Matrices, OneRank, same_shapes
from llm.optim.optimizer import State, Step

QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(x: Tensor) -> Tensor:
    """Approximately UVᵀ of each matrix x = USVᵀ: (n, rows, columns) → the same.

    Five Newton–Schulz steps X ← aX + (bA + cA²)X with A = XXᵀ, on the wide form of the matrix, scaled to a Frobenius
    norm of 1, in bfloat16. It is float32 on a CPU without bf16 instructions, which emulates them 50 to 100 times
    slower, and float64 if x is. The singular values end near 1: in 0.68 to 1.14 for a random matrix 256 × 1024, in 0.08
    to 1.20 for a square one of 256 (torch 2.13.0, CPU).
    """
    a, b, c = QUINTIC
    emulates = x.device.type == "cpu" and not cpu_multiplies_bf16()
    wide = x if x.dtype == torch.float64 or emulates else x.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    wide = wide.mT if tall else wide
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    result: Tensor = (wide.mT if tall else wide).to(x.dtype)
    return result


@dataclass(frozen=True)
class Muon:
    """B ← μB + (1−μ)g; θ ← θ − lr·λ·θ − lr·√max(1, rows/columns)·orthogonalize((1−μ)g + μB).

    Nesterov momentum and the "original" scaling of `torch.optim.Muon`. `fused` orthogonalizes matrices of one shape
    together. `matrices` spreads the work over ranks.
    """

    momentum: float
    fused: bool = False
    matrices: Matrices | None = None
    name: ClassVar[str] = "muon"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """One step in place on matrices; nothing changes if `step.ok` is False."""
        buffers, ok, like = state["momentum"], step.ok, step.count.to(weights[0].dtype)
        gradients = zero_unless(gradients, ok)
        momentum = self.momentum if step.momentum is None else step.momentum
        torch._foreach_mul_(buffers, scalar_where(momentum, 1.0, ok, like))
        torch._foreach_add_(buffers, gradients, alpha=1 - momentum)
        directions = torch._foreach_lerp(gradients, buffers, momentum)
        if step.weight_decay:
            torch._foreach_mul_(weights, scalar_where(1 - step.lr * step.weight_decay, 1.0, ok, like))
        matrices = self.matrices or OneRank(self.fused)
        changes = matrices.apply(orthogonalize, list(directions))
        shapes = matrices.whole_shapes(weights)
        for batch in same_shapes(shapes):
            rows, columns = shapes[batch[0]]
            rate = step.lr * math.sqrt(max(1, rows / columns))
            scaled = torch._foreach_mul([changes[i] for i in batch], scalar_where(-rate, 0.0, ok, like))
            torch._foreach_add_([weights[i] for i in batch], scaled)
