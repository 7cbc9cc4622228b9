"""Rotary positions against their definition as complex multiplication."""

from __future__ import annotations

import cmath

import pytest
import torch

from llm.model.kernels import FUSED, REFERENCE, Kernels
from llm.model.layers import use_kernels
from llm.model.rotary import Rotary, rotary_angles

THETA, WIDTH, POSITIONS = 97.0, 10, 13


def by_complex_numbers(x: torch.Tensor, start: int, pairs: str) -> torch.Tensor:
    half = x.shape[-1] // 2
    first, second = (x[..., ::2], x[..., 1::2]) if pairs == "even-odd" else (x[..., :half], x[..., half:])
    turned = torch.empty_like(x)
    for t in range(x.shape[-2]):
        for i in range(half):
            angle = (start + t) / THETA ** (2 * i / x.shape[-1])
            z = torch.complex(first[..., t, i], second[..., t, i]) * cmath.exp(1j * angle)
            a, b = (2 * i, 2 * i + 1) if pairs == "even-odd" else (i, half + i)
            turned[..., t, a], turned[..., t, b] = z.real, z.imag
    return turned


@pytest.mark.parametrize("kernels", [FUSED, REFERENCE], ids=["fused", "reference"])
@pytest.mark.parametrize("pairs", ["even-odd", "halves"])
@pytest.mark.parametrize("start", [0, 6])
def test_rotation(pairs: str, start: int, kernels: Kernels) -> None:
    rotary = use_kernels(Rotary(WIDTH, POSITIONS, theta=THETA, pairs=pairs), kernels).double()
    x = torch.randn(2, 3, 7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rotary(x, start), by_complex_numbers(x, start, pairs), rtol=1e-9, atol=1e-12)
    assert torch.allclose(rotary(x, start).norm(dim=-1), x.norm(dim=-1), rtol=1e-12)


@pytest.mark.parametrize("pairs", ["even-odd", "halves"])
def test_inverse_rotates_by_the_negative_angle(pairs: str) -> None:
    forward, back = (
        Rotary(WIDTH, POSITIONS, theta=THETA, pairs=pairs, inverse=inverse).double() for inverse in (False, True)
    )
    x = torch.randn(2, 3, 7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(back(forward(x, 3), 3), x, rtol=1e-12)
    assert not torch.allclose(back(x, 3), forward(x, 3))


@pytest.mark.parametrize("pairs", ["even-odd", "halves"])
def test_scores_depend_only_on_distance(pairs: str) -> None:
    rotary = Rotary(WIDTH, POSITIONS, theta=THETA, pairs=pairs).double()
    query, key = torch.randn(2, 1, 1, 1, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scores = [(rotary(query, start + 5) * rotary(key, start)).sum() for start in range(POSITIONS - 5)]
    assert torch.allclose(torch.stack(scores), scores[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("module", "tables"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_tables_are_exact_in_every_dtype(module: torch.dtype, tables: torch.dtype) -> None:
    rotary = Rotary(WIDTH, 5003, theta=THETA, pairs="halves").to(torch.bfloat16).to(module)
    assert rotary.cos.dtype == rotary.sin.dtype == tables
    assert torch.equal(rotary.sin, rotary_angles(WIDTH, 5003, THETA).sin().to(tables))
    x = torch.ones(1, 1, 1, WIDTH, dtype=module)
    assert rotary(x, 5000).dtype == module


def test_tables_are_computed_for_a_materialized_meta_module() -> None:
    with torch.device("meta"):
        rotary = Rotary(WIDTH, POSITIONS, theta=THETA, pairs="halves")
    rotary.to_empty(device="cpu")
    assert torch.equal(rotary.cos, rotary_angles(WIDTH, POSITIONS, THETA).cos().float())
