"""Filters against transformers' processors of the same name, in float64; against formulas where there are none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as hf

from llm.sampling import filters

BATCH, VOCAB = 7, 101
INF = math.inf


def random_logits(seed: int, *, batch: int = BATCH, vocab: int = VOCAB, spread: float = 3.0) -> Tensor:
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def random_history(seed: int, length: int = 29, *, batch: int = BATCH, vocab: int = VOCAB) -> Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def same_distribution(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours > -INF, theirs > -INF), "another set of tokens is kept"
    torch.testing.assert_close(torch.softmax(ours, -1), torch.softmax(theirs, -1), rtol=1e-12, atol=0)


CASES = [
    (lambda x: filters.top_k(x, 5), hf.TopKLogitsWarper(5)),
    (lambda x: filters.top_k(x, 1), hf.TopKLogitsWarper(1)),
    (lambda x: filters.top_k(x, 10 * VOCAB), hf.TopKLogitsWarper(10 * VOCAB)),
    (lambda x: filters.top_p(x, 0.9), hf.TopPLogitsWarper(0.9)),
    (lambda x: filters.top_p(x, 0.35), hf.TopPLogitsWarper(0.35)),
    (lambda x: filters.top_p(x, 1e-9), hf.TopPLogitsWarper(1e-9)),
    (lambda x: filters.min_p(x, 0.05), hf.MinPLogitsWarper(0.05)),
    (lambda x: filters.min_p(x, 1.0), hf.MinPLogitsWarper(1.0)),
    (lambda x: filters.typical(x, 0.9), hf.TypicalLogitsWarper(0.9)),
    (lambda x: filters.typical(x, 0.2), hf.TypicalLogitsWarper(0.2)),
    (lambda x: filters.epsilon_cutoff(x, 0.01), hf.EpsilonLogitsWarper(0.01)),
    (lambda x: filters.epsilon_cutoff(x, 0.9), hf.EpsilonLogitsWarper(0.9)),
    (lambda x: filters.eta_cutoff(x, 0.01), hf.EtaLogitsWarper(0.01)),
    (lambda x: filters.eta_cutoff(x, 0.3), hf.EtaLogitsWarper(0.3)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("spread", [0.3, 3.0, 20.0])
def test_same_set_and_probabilities_as_transformers(case: int, spread: float) -> None:
    ours, theirs = CASES[case]
    for seed in range(5):
        logits = random_logits(seed, spread=spread)
        untouched = logits.clone()
        same_distribution(ours(logits), theirs(random_history(seed), logits))
        assert torch.equal(logits, untouched)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.999, 1 - 1e-9])
def test_the_nucleus_of_a_large_vocabulary(p: float) -> None:
    """Some of these are found among the likeliest few hundred, others need them all."""
    logits = random_logits(6, vocab=4001)
    same_distribution(filters.top_p(logits, p), hf.TopPLogitsWarper(p)(random_history(6), logits))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_repeat_ngram_bans_what_transformers_bans(n: int) -> None:
    history = random_history(n, 97, vocab=5)
    logits = random_logits(n, vocab=53)  # more tokens than occur, so that some are always left
    theirs = hf.NoRepeatNGramLogitsProcessor(n)(history, logits)
    assert (theirs == -INF).any()
    same_distribution(filters.no_repeat_ngram(logits, history, n), theirs)
    assert torch.equal(filters.no_repeat_ngram(logits, history[:, : n - 1], n), logits)


def test_bans_of_the_end_of_text_and_of_tokens() -> None:
    logits, history = random_logits(3), random_history(3)
    ends = torch.tensor([2, 97])
    theirs = hf.MinLengthLogitsProcessor(history.shape[1] + 1, ends)(history, logits)
    same_distribution(filters.ban(logits, ends), theirs)
    same_distribution(
        filters.ban(logits, torch.tensor([5, 11, 5])), hf.SuppressTokensLogitsProcessor([5, 11])(history, logits)
    )


def test_a_ban_never_takes_a_rows_last_token() -> None:
    logits = torch.tensor([[1.0, -INF, -INF], [1.0, 2.0, -INF]])
    kept = filters.ban(logits, torch.tensor([0, 2]))
    assert kept.tolist() == [[1.0, -INF, -INF], [-INF, 2.0, -INF]]


def test_top_n_sigma_follows_its_formula() -> None:
    logits = random_logits(1)
    threshold = logits.max(-1, keepdim=True).values - 1.3 * logits.std(-1, correction=0, keepdim=True)
    expected = logits.masked_fill(logits < threshold, -INF)
    assert 1 < (expected > -INF).sum(-1).float().mean() < VOCAB
    same_distribution(filters.top_n_sigma(logits, 1.3), expected)
    # a ban changes nothing about the tokens still in play
    part = torch.cat((logits[:, :50], torch.full((BATCH, 3), -INF, dtype=torch.float64)), dim=1)
    torch.testing.assert_close(filters.top_n_sigma(part, 1.3)[:, :50], filters.top_n_sigma(logits[:, :50], 1.3))


def test_top_n_sigma_keeps_the_same_tokens_at_any_temperature() -> None:
    logits = random_logits(2)
    assert torch.equal(filters.top_n_sigma(logits, 1.0) > -INF, filters.top_n_sigma(logits / 3.7, 1.0) > -INF)


def test_xtc_keeps_only_the_last_of_the_top_choices() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]] * 2 + [[0.85, 0.05, 0.05, 0.05]], dtype=torch.float64)
    coins = torch.tensor([0.2, 0.7, 0.2])
    changed = torch.softmax(filters.xtc(probabilities.log(), 0.1, 0.5, coins), -1)
    torch.testing.assert_close(changed[0], torch.tensor([0, 0, 0.75, 0.25], dtype=torch.float64))
    torch.testing.assert_close(changed[1], probabilities[1])  # the coin said no
    torch.testing.assert_close(changed[2], probabilities[2])  # one top choice alone stays


def test_mirostat_cuts_at_mu_bits_and_moves_mu_towards_tau() -> None:
    logits = random_logits(4)
    mu = torch.linspace(0.01, 8, BATCH, dtype=torch.float64)
    kept = filters.mirostat(logits, mu) > -INF
    surprise = -torch.log2(torch.softmax(logits, -1))
    expected = surprise <= mu.unsqueeze(-1)
    expected[torch.arange(BATCH), logits.argmax(-1)] = True
    assert torch.equal(kept, expected)
    moved = filters.mirostat_update(torch.tensor([6.0, 6.0]), torch.tensor([1 / 8, 1 / 2]), 3.0, 0.1)
    torch.testing.assert_close(moved, torch.tensor([6.0, 6.0 - 0.1 * (1.0 - 3.0)]))


def test_mirostat_holds_the_surprise_near_its_target() -> None:
    """A fixed, flat distribution of 12 bits or so, held at 4 bits: the mean surprise settles there."""
    from llm.sampling.draw import Uniforms, draw

    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(1)) * 1.5
    mu, uniforms, seen = torch.tensor([8.0]), Uniforms(5, 1, torch.device("cpu")), []
    for _ in range(600):
        probabilities = torch.softmax(filters.mirostat(logits, mu), -1)
        probability = probabilities[:, draw(probabilities, uniforms.next()[:, 0])][0]
        seen.append(-math.log2(float(probability)))
        mu = filters.mirostat_update(mu, probability, 4.0, 0.1)
    assert abs(sum(seen[100:]) / 500 - 4.0) < 0.1


FILTERS = [
    lambda x, p: filters.top_p(x, p),
    lambda x, p: filters.min_p(x, p),
    lambda x, p: filters.typical(x, p),
    lambda x, p: filters.epsilon_cutoff(x, p),
    lambda x, p: filters.eta_cutoff(x, p),
    lambda x, p: filters.top_n_sigma(x, 5 * p),
    lambda x, p: filters.xtc(x, p, 1.0, torch.zeros(len(x))),
    lambda x, p: filters.mirostat(x, torch.full((len(x),), 9 * p)),
    lambda x, p: filters.top_k(x, max(1, int(10 * p))),
]


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, len(FILTERS) - 1),
    p=st.floats(1e-6, 1 - 1e-6),
    rows=st.lists(
        st.lists(st.floats(-50, 50, width=32) | st.just(-INF), min_size=6, max_size=6), min_size=1, max_size=3
    ),
)
def test_every_filter_keeps_something_and_changes_nothing_it_keeps(
    which: int, p: float, rows: list[list[float]]
) -> None:
    logits = torch.tensor([[0.0, *row] for row in rows])
    kept = FILTERS[which](logits, p)
    stays = kept > -INF
    assert stays.any(-1).all()
    assert torch.equal(kept[stays], logits[stays])
    assert not (stays & (logits == -INF)).any()


@pytest.mark.parametrize("which", range(len(FILTERS)))
def test_rows_do_not_see_one_another(which: int) -> None:
    logits = random_logits(9)
    alone = torch.cat([FILTERS[which](row.unsqueeze(0), 0.4) for row in logits])
    assert torch.equal(FILTERS[which](logits, 0.4), alone)
