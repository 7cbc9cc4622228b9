"""Clipping against PyTorch's, and gradients that it must not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llm.optim import clip_grad_norm


def parameters(scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(6)
    made = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 5), (7,), (2, 2, 11))]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
    return [*made, nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("scale", [1e-8, 0.01, 1.0, 1e6])
def test_equals_torch(scale: float) -> None:
    ours, theirs = parameters(scale), parameters(scale)
    norm = clip_grad_norm((parameter for parameter in ours), 0.9)  # a generator is enough
    expected = nn.utils.clip_grad_norm_(theirs, 0.9)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-12, atol=0)
    assert ours[3].grad is None


def test_smaller_gradients_do_not_change() -> None:
    ours, before = parameters(0.01), parameters(0.01)
    clip_grad_norm(ours, 100.0)
    clip_grad_norm(ours, 0.0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours[:3], before[:3], strict=True))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_norm_does_not_change_gradients(poison: float) -> None:
    ours, before = parameters(1.0), parameters(1.0)
    ours[0].grad[1, 2] = poison
    assert not torch.isfinite(clip_grad_norm(ours, 0.1))
    assert torch.equal(ours[1].grad, before[1].grad)
    assert torch.equal(ours[2].grad, before[2].grad)


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_grad_norm([nn.Parameter(torch.zeros(3))], 1.0) == 0
