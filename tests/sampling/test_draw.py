"""Drawing: the right frequencies, never an impossible token, and the same numbers for the same seed."""

from __future__ import annotations

import pytest
import torch

from llm.sampling import Uniforms, draw
from llm.sampling.draw import to_uniforms

CPU = torch.device("cpu")


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_a_hundred_thousand_draws_have_the_right_frequencies() -> None:
    probabilities = torch.softmax(torch.randn(37, generator=torch.Generator().manual_seed(3)), -1)
    rows, steps = 100, 1000
    uniforms = Uniforms(11, rows, CPU)
    table = probabilities.expand(rows, -1)
    drawn = torch.stack([draw(table, uniforms.next()[:, 0]) for _ in range(steps)])
    counts = torch.bincount(drawn.flatten(), minlength=37)
    assert chi_square(counts, probabilities) < 67.99  # 0.999 quantile at 36 degrees of freedom
    last = torch.bincount(drawn[:, -1], minlength=37)
    assert chi_square(last, probabilities) < 67.99  # one sample's own stream, too


def test_the_coins_do_not_follow_the_draws() -> None:
    numbers = torch.cat([uniforms.next() for uniforms in [Uniforms(2, 10, CPU)] for _ in range(2000)])
    assert abs(float(torch.corrcoef(numbers.T)[0, 1])) < 0.03


def test_impossible_tokens_are_never_sampled() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    for uniform in (0.0, 0.5 - 1e-15, 0.5, 1 - 1e-12):
        token = int(draw(probabilities, torch.tensor([uniform], dtype=torch.float64)))
        assert token == (1 if uniform < 0.5 else 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_numbers_stay_below_one_in_every_dtype(dtype: torch.dtype) -> None:
    """Also their products with a sum: `draw` looks for the first cumulative probability above the product, and there is
    none above the sum."""
    largest = to_uniforms(torch.tensor([1 - 2**-53], dtype=torch.float64), dtype)
    sums = torch.linspace(0.1, 100, 99_991, dtype=torch.float64).to(dtype)
    assert largest.dtype == dtype and bool((largest < 1).all()) and bool((largest * sums < sums).all())


def test_probabilities_need_not_sum_to_one() -> None:
    weights = torch.tensor([[2.0, 6.0]])
    assert [int(draw(weights, torch.tensor([u]))) for u in (0.24, 0.26)] == [0, 1]


def test_a_sample_is_the_same_in_any_batch() -> None:
    alone, beside = Uniforms(5, 1, CPU), Uniforms(5, 3, CPU)
    for _ in range(300):  # past the end of a chunk
        first, several = alone.next(), beside.next()
        assert torch.equal(first[0], several[0])
        assert not torch.equal(several[0], several[1])


def test_neighbouring_seeds_share_no_sample() -> None:
    one, next_seed = Uniforms(5, 4, CPU).next(), Uniforms(6, 4, CPU).next()
    assert not torch.isin(one, next_seed).any()


def test_the_default_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    uniforms = Uniforms(1, 2, CPU)
    draw(torch.ones(2, 9), uniforms.next()[:, 0])
    assert torch.equal(torch.get_rng_state(), before)
