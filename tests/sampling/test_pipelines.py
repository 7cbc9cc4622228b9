"""Whole pipelines: the tokens and probabilities of transformers' processors of the same names, sampled at the right
frequencies, without host synchronization."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from llm.config.decode_schema import DecodeConfig
from llm.sampling import SamplingContext, Uniforms, Vocabulary, build_pipeline, draw
from llm.sampling.filters import mirostat_update
from llm.sampling.pipeline import PROCESSORS
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
VOCAB, END = TOKENIZER.vocab_size, TOKENIZER.special_tokens["<|endoftext|>"]
NEUTRAL = DecodeConfig(temperature=1.0)
PROMPT, GENERATED, ROWS = 20, 11, 3
DRAWS, SAMPLES = 100_000, 100


@dataclass(frozen=True)
class Case:
    """Parameters, and the processors that do the same, in the same order."""

    params: dict[str, Any]
    theirs: tuple[hf.LogitsProcessor, ...]


SINGLE = {
    "temperature": Case({"temperature": 0.6}, (hf.TemperatureLogitsWarper(0.6),)),
    "top_k": Case({"top_k": 9}, (hf.TopKLogitsWarper(9),)),
    "top_p": Case({"top_p": 0.8}, (hf.TopPLogitsWarper(0.8),)),
    "min_p": Case({"min_p": 0.1}, (hf.MinPLogitsWarper(0.1),)),
    "typical_p": Case({"typical_p": 0.7}, (hf.TypicalLogitsWarper(0.7),)),
    "epsilon_cutoff": Case({"epsilon_cutoff": 0.005}, (hf.EpsilonLogitsWarper(0.005),)),
    "eta_cutoff": Case({"eta_cutoff": 0.02}, (hf.EtaLogitsWarper(0.02),)),
    "repetition_penalty": Case({"repetition_penalty": 1.4}, (hf.RepetitionPenaltyLogitsProcessor(1.4),)),
    "no_repeat_ngram": Case({"no_repeat_ngram": 2}, (hf.NoRepeatNGramLogitsProcessor(2),)),
    "logit_bias": Case(
        {"logit_bias": ("97=2.5", "98=-3", "'0'=1")},
        (hf.SequenceBiasLogitsProcessor([[[97], 2.5], [[98], -3.0], [[48], 1.0]]),),
    ),
    "banned_tokens": Case({"banned_tokens": ("97", "z")}, (hf.NoBadWordsLogitsProcessor([[97], [122]], END),)),
    "too short": Case(
        {"min_tokens": GENERATED + 1}, (hf.MinNewTokensLengthLogitsProcessor(PROMPT, GENERATED + 1, END),)
    ),
    "long enough": Case({"min_tokens": GENERATED}, (hf.MinNewTokensLengthLogitsProcessor(PROMPT, GENERATED, END),)),
    "ban_end": Case({"ban_end": True}, (hf.SuppressTokensLogitsProcessor([END]),)),
    "length_penalty": Case(
        {"length_penalty": 1.1, "length_penalty_start": 4}, (hf.ExponentialDecayLengthPenalty((4, 1.1), END, PROMPT),)
    ),
}  # fmt: skip
TOGETHER = {
    "as most do": Case(
        {"repetition_penalty": 1.2, "temperature": 0.8, "top_k": 60, "top_p": 0.9},
        (
            hf.RepetitionPenaltyLogitsProcessor(1.2),
            hf.TemperatureLogitsWarper(0.8),
            hf.TopKLogitsWarper(60),
            hf.TopPLogitsWarper(0.9),
        ),
    ),
    "many": Case(
        {"no_repeat_ngram": 2, "logit_bias": ("97=2",), "temperature": 1.3, "typical_p": 0.9, "top_p": 0.95,
         "min_p": 0.02, "epsilon_cutoff": 0.002, "eta_cutoff": 0.002},
        (
            hf.NoRepeatNGramLogitsProcessor(2),
            hf.SequenceBiasLogitsProcessor([[[97], 2.0]]),
            hf.TemperatureLogitsWarper(1.3),
            hf.TypicalLogitsWarper(0.9),
            hf.TopPLogitsWarper(0.95),
            hf.MinPLogitsWarper(0.02),
            hf.EpsilonLogitsWarper(0.002),
            hf.EtaLogitsWarper(0.002),
        ),
    ),
    "in another order": Case(
        {"temperature": 2.0, "top_p": 0.6, "order": ("top_p", "temperature")},
        (hf.TopPLogitsWarper(0.6), hf.TemperatureLogitsWarper(2.0)),
    ),
}  # fmt: skip
OURS_ALONE = {
    "plain": {},
    "dynamic_temperature": {"dynamic_range": 0.5, "dynamic_exponent": 1.5},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    "mirostat": {"mirostat_tau": 4.0},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": 0.8},
    "dry": {"dry_multiplier": 1.0, "dry_allowed_length": 1},
}
EVERYTHING = DecodeConfig(
    temperature=0.9, top_k=40, top_p=0.9, min_p=0.01, typical_p=0.95, top_n_sigma=3.0, epsilon_cutoff=1e-4,
    eta_cutoff=1e-4, xtc_probability=0.5, mirostat_tau=5.0, repetition_penalty=1.1, presence_penalty=0.2,
    frequency_penalty=0.1, no_repeat_ngram=4, dry_multiplier=0.8, logit_bias=("97=1.5",), banned_tokens=("x",),
    min_tokens=99, length_penalty=1.05,
)  # fmt: skip


def logits() -> Tensor:
    return torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2.5


def moment() -> SamplingContext:
    """A text of few different tokens, so that much of it repeats."""
    history = torch.randint(94, 101, (ROWS, PROMPT + GENERATED), generator=torch.Generator().manual_seed(5))
    return SamplingContext(history, GENERATED, torch.full((ROWS,), 0.3), torch.full((ROWS,), 6.0))


def probabilities(params: DecodeConfig) -> Tensor:
    return torch.softmax(build_pipeline(params, Vocabulary(TOKENIZER))(logits(), moment()), dim=-1)


@pytest.mark.parametrize("name", [*SINGLE, *TOGETHER])
def test_parameters_give_what_transformers_gives(name: str) -> None:
    case = (SINGLE | TOGETHER)[name]
    ours, theirs = probabilities(replace(NEUTRAL, **case.params)), logits()
    for processor in case.theirs:
        theirs = processor(moment().history, theirs)
    expected = torch.softmax(theirs, dim=-1)
    assert torch.equal(ours > 0, expected > 0), "another set of tokens is kept"
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    if name != "long enough":
        assert not torch.allclose(ours, torch.softmax(logits(), dim=-1)), "the case shows nothing"


def likely_chi_square(cells: int) -> float:
    """What chi-square with that many cells exceeds once in 10 000 times (Wilson & Hilferty 1931)."""
    freedom = cells - 1
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3


def cases_to_draw() -> dict[str, dict[str, Any]]:
    return {name: case.params for name, case in (SINGLE | TOGETHER).items()} | OURS_ALONE


@pytest.mark.parametrize("name", list(cases_to_draw()))
def test_a_hundred_thousand_draws_pass_a_chi_square_test(name: str) -> None:
    """Tokens expected fewer than five times are counted together."""
    table = probabilities(replace(NEUTRAL, **cases_to_draw()[name]))[:1]
    uniforms = Uniforms(21, SAMPLES, torch.device("cpu"))
    rows = table.expand(SAMPLES, -1)
    drawn = torch.cat([draw(rows, uniforms.next()[:, 0]) for _ in range(DRAWS // SAMPLES)])
    counts, expected = torch.bincount(drawn, minlength=VOCAB).double(), table[0] * DRAWS
    assert not counts[expected == 0].any(), "a removed token was sampled"
    often = expected >= 5
    counts = torch.cat((counts[often], counts[~often].sum().unsqueeze(0)))
    expected = torch.cat((expected[often], expected[~often].sum().unsqueeze(0)))
    there = expected > 0
    value = ((counts - expected)[there].square() / expected[there]).sum()
    assert there.sum() > 3
    assert value < likely_chi_square(int(there.sum()))


def test_nothing_waits_for_the_device() -> None:
    """On torch's "meta" device there are no numbers, and asking for one is an error."""
    meta = torch.device("meta")
    for params in (EVERYTHING, replace(EVERYTHING, dynamic_range=0.3), replace(EVERYTHING, temperature=0.0)):
        pipeline = build_pipeline(params, Vocabulary(TOKENIZER, meta))
        assert sum(active for _, active, _ in pipeline.describe()) == len(PROCESSORS) - 1
        there = moment()
        ctx = SamplingContext(there.history.to(meta), GENERATED, there.uniform.to(meta), there.mu.to(meta))
        found = torch.softmax(pipeline(logits().to(meta), ctx), dim=-1)
        tokens = draw(found, ctx.uniform)
        probability = found.gather(1, tokens.unsqueeze(-1)).squeeze(-1)
        assert (tokens.shape, mirostat_update(ctx.mu, probability, 5.0, 0.1).shape) == ((ROWS,), (ROWS,))
    with pytest.raises((RuntimeError, NotImplementedError)):
        ctx.uniform.tolist()
