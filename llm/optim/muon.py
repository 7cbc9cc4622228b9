"""Muon: SGD with momentum, whose updates are orthogonalized.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.device import cpu_multiplies_bf16
from llm.optim.gate import scalar_where, zero_unless
from llm.optim.optimizer import State, Step
from llm.optim.placement import OneRank, Placement, group_by_shape

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
MIN_GRAM_RATIO = 1.5  # columns per row from which `newton_schulz_gram` takes fewer operations than `newton_schulz`


def orthogonalize(x: Tensor) -> Tensor:
    """Approximately UVᵀ of each matrix x = USVᵀ: (n, rows, columns) → the same.

    Five Newton–Schulz steps X ← aX + (bA + cA²)X with A = XXᵀ, on the matrix scaled to a Frobenius norm of 1 and
    transposed if it is tall. They are computed in bfloat16, in float64 if x is float64, and in float32 on a CPU without
    bf16 instructions, where emulating them is 50 to 100 times slower. The singular values end near 1: in 0.68 to 1.14
    for a random matrix 256 × 1024, in 0.08 to 1.20 for a square one of 256 (torch 2.13.0, CPU).
    """
    emulates_bf16 = x.device.type == "cpu" and not cpu_multiplies_bf16()
    wide = x if x.dtype == torch.float64 or emulates_bf16 else x.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    wide = wide.mT if is_tall else wide
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp_min(1e-7)
    uses_gram = wide.shape[-1] >= MIN_GRAM_RATIO * wide.shape[-2] and wide.dtype != torch.bfloat16
    wide = newton_schulz_gram(wide) if uses_gram else newton_schulz(wide)
    result: Tensor = (wide.mT if is_tall else wide).to(x.dtype)
    return result


def newton_schulz(x: Tensor) -> Tensor:
    """`NS_STEPS` Newton–Schulz steps on (n, rows, columns)."""
    a, b, c = NS_COEFFICIENTS
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def newton_schulz_gram(x: Tensor) -> Tensor:
    """The same steps computed on the small matrix A = XXᵀ: A ← PAP with P = aI + bA + cA².

    At the end, X is multiplied by the product of all P. A step takes 4 small matrix products instead of 1 small and 2
    large ones. A has the squares of the singular values, for which bfloat16 has too few digits.
    """
    a, b, c = NS_COEFFICIENTS
    gram = x @ x.mT
    factor = None
    for step in range(NS_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = polynomial if factor is None else polynomial @ factor
        if step < NS_STEPS - 1:
            gram = polynomial @ (gram @ polynomial)
    assert factor is not None
    return factor @ x


@dataclass(frozen=True)
class Muon:
    """B ← μB + (1−μ)g; θ ← θ − lr·λ·θ − lr·√max(1, rows/columns)·orthogonalize((1−μ)g + μB).

    Nesterov momentum, and the "original" learning-rate adjustment of `torch.optim.Muon`. `fused` orthogonalizes all
    matrices of one shape in one call. `placement` shares the work among ranks; None: this rank does all of it.
    """

    momentum: float
    fused: bool = False
    placement: Placement | None = None
    name: ClassVar[str] = "muon"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """One step in place on matrices (rows, columns); nothing changes if `step.ok` is False."""
        buffers, ok, like = state["momentum"], step.ok, step.count.to(weights[0].dtype)
        gradients = zero_unless(gradients, ok)
        momentum = self.momentum if step.momentum is None else step.momentum
        torch._foreach_mul_(buffers, scalar_where(momentum, 1.0, ok, like))
        torch._foreach_add_(buffers, gradients, alpha=1 - momentum)
        directions = torch._foreach_lerp(gradients, buffers, momentum)
        if step.weight_decay:
            torch._foreach_mul_(weights, scalar_where(1 - step.lr * step.weight_decay, 1.0, ok, like))
        placement = self.placement or OneRank(self.fused)
        changes = placement.apply(orthogonalize, list(directions))
        shapes = placement.full_shapes(weights)
        for batch in group_by_shape(shapes):
            rows, columns = shapes[batch[0]]
            rate = step.lr * math.sqrt(max(1, rows / columns))
            scaled = torch._foreach_mul([changes[i] for i in batch], scalar_where(-rate, 0.0, ok, like))
            torch._foreach_add_([weights[i] for i in batch], scaled)
