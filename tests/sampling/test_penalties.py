"""Penalties and temperature against transformers where it has them, against written-out formulas where not."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as hf

from llm.sampling import penalties

BATCH, VOCAB = 5, 83
INF = math.inf


def inputs(seed: int, length: int = 31, vocab: int = VOCAB) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(BATCH, VOCAB, generator=generator, dtype=torch.float64) * 4
    return logits, torch.randint(0, vocab, (BATCH, length), generator=generator)


@pytest.mark.parametrize("t", [0.1, 0.7, 1.0, 3.0])
def test_temperature(t: float) -> None:
    logits, history = inputs(1)
    torch.testing.assert_close(penalties.temperature(logits, t), hf.TemperatureLogitsWarper(t)(history, logits))


def test_temperature_zero_leaves_the_first_of_the_largest() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, -1.0, 0.0]])
    assert torch.softmax(penalties.temperature(logits, 0), -1).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_dynamic_temperature_follows_its_formula() -> None:
    logits, _ = inputs(2)
    logits[0] = 0.0  # uniform: the highest temperature
    logits[1, :] = -60.0
    logits[1, 4] = 60.0  # certain: the lowest
    result = penalties.dynamic_temperature(logits, 1.0, 0.6, 2.0)
    for row, scaled in zip(logits, result, strict=True):
        p = torch.softmax(row, -1)
        entropy = -sum(float(x) * math.log(float(x)) for x in p if x > 0)
        expected = 0.4 + 1.2 * (entropy / math.log(VOCAB)) ** 2
        torch.testing.assert_close(scaled, row / expected)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits, history = inputs(3)
    theirs = hf.RepetitionPenaltyLogitsProcessor(penalty)(history, logits)
    torch.testing.assert_close(penalties.repetition_penalty(logits, history, penalty), theirs, rtol=1e-12, atol=0)


def test_presence_and_frequency_penalties_follow_their_formulas() -> None:
    logits, history = inputs(4, vocab=17)
    presence = penalties.presence_penalty(logits, history, 0.7)
    frequency = penalties.frequency_penalty(logits, history, 0.3)
    for row in range(BATCH):
        count = Counter(history[row].tolist())
        for token in range(VOCAB):
            assert presence[row, token] == logits[row, token] - 0.7 * (count[token] > 0)
            assert math.isclose(frequency[row, token], logits[row, token] - 0.3 * count[token], rel_tol=1e-12)


@pytest.mark.parametrize("excess", [-3, 0, 1, 4])
def test_length_penalty_is_that_of_transformers(excess: int) -> None:
    logits, history = inputs(5)
    logits[2, 7] = -INF  # a banned end stays banned
    ends = torch.tensor([7, 80])
    start = history.shape[1] - excess
    theirs = hf.ExponentialDecayLengthPenalty((0, 1.2), ends, start)(history, logits)
    torch.testing.assert_close(penalties.length_penalty(logits, ends, 1.2, excess), theirs, rtol=1e-12, atol=0)


def test_length_penalty_stays_finite_for_ever() -> None:
    logits, _ = inputs(6)
    assert torch.isfinite(penalties.length_penalty(logits.float(), torch.tensor([1]), 100.0, 10**9)).all()


def test_logit_bias_adds_up() -> None:
    logits, _ = inputs(7)
    result = penalties.logit_bias(logits, torch.tensor([3, 5, 3]), torch.tensor([1.0, -2.0, 0.5]))
    expected = logits.clone()
    expected[:, 3] += 1.5
    expected[:, 5] -= 2.0
    torch.testing.assert_close(result, expected)


def dry_written_out(
    logits: list[float], text: list[int], breakers: set[int], multiplier: float, base: float, allowed: int
) -> list[float]:
    """The definition, one earlier position at a time."""
    longest: dict[int, int] = {}
    for i in range(len(text) - 1):
        length = 0
        while length <= i and text[i - length] == text[-1 - length] and text[i - length] not in breakers:
            length += 1
        longest[text[i + 1]] = max(longest.get(text[i + 1], 0), min(length, penalties.MAX_MATCH))
    result = list(logits)
    for token, length in longest.items():
        if length >= allowed and token not in breakers:
            result[token] -= multiplier * base ** (length - allowed)
    return result


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    breakers=st.sets(st.integers(0, 3), max_size=2),
    allowed=st.integers(1, 4),
)
def test_dry_follows_its_definition(text: list[int], breakers: set[int], allowed: int) -> None:
    logits = torch.zeros(1, 5, dtype=torch.float64)
    mask = torch.tensor([token in breakers for token in range(5)])
    ours = penalties.dry(logits, torch.tensor([text]), mask, 0.8, 1.75, allowed)
    expected = dry_written_out([0.0] * 5, text, breakers, 0.8, 1.75, allowed)
    torch.testing.assert_close(ours[0], torch.tensor(expected, dtype=torch.float64))


def test_dry_in_a_batch_and_on_a_very_long_repetition() -> None:
    text = torch.tensor([[1, 2] * 200, [1, 3] * 200])
    none = torch.zeros(7, dtype=torch.bool)
    result = penalties.dry(torch.zeros(2, 7), text, none, 1.0, 100.0, 2)
    assert torch.isfinite(result).all()
    assert result.argmin(-1).tolist() == [1, 1]
    assert torch.equal(result[:1], penalties.dry(torch.zeros(1, 7), text[:1], none, 1.0, 100.0, 2))
