"""The pipeline: order, active processors, and the parameters that name tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.errors import ConfigError
from llm.sampling import SamplingContext, Vocabulary, build_pipeline, explain, filters, penalties, resolve_order
from llm.sampling.pipeline import PROCESSORS
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>", "<|user|>"))
VOCABULARY = Vocabulary(TOKENIZER)
NEUTRAL = DecodeConfig(temperature=1.0)
VOCAB = TOKENIZER.vocab_size

EVERYTHING = DecodeConfig(
    temperature=0.9, dynamic_range=0.3, top_k=40, top_p=0.9, min_p=0.01, typical_p=0.95, top_n_sigma=3.0,
    epsilon_cutoff=1e-4, eta_cutoff=1e-4, xtc_probability=0.5, mirostat_tau=5.0, repetition_penalty=1.1,
    presence_penalty=0.2, frequency_penalty=0.1, no_repeat_ngram=4, dry_multiplier=0.8, logit_bias=("97=1.5",),
    banned_tokens=("x", "<|user|>"), min_tokens=5, length_penalty=1.05,
)  # fmt: skip


def moment(generated: int = 0, rows: int = 3, length: int = 23) -> SamplingContext:
    generator = torch.Generator().manual_seed(8)
    history = torch.randint(0, 256, (rows, length), generator=generator)
    return SamplingContext(history, generated, torch.full((rows,), 0.25), torch.full((rows,), 10.0))


def logits(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3


def test_neutral_parameters_do_nothing() -> None:
    pipeline = build_pipeline(NEUTRAL, VOCABULARY)
    assert not any(active for _, active, _ in pipeline.describe())
    x = logits()
    assert pipeline(x, moment()) is x


def test_each_processor_at_its_neutral_parameter_changes_no_probability() -> None:
    x, ctx = logits(), moment()
    breakers = torch.zeros(VOCAB, dtype=torch.bool)
    same = [
        penalties.temperature(x, 1.0),
        penalties.dynamic_temperature(x, 1.0, 0.0, 1.0),
        penalties.repetition_penalty(x, ctx.history, 1.0),
        penalties.presence_penalty(x, ctx.history, 0.0),
        penalties.frequency_penalty(x, ctx.history, 0.0),
        penalties.dry(x, ctx.history, breakers, 0.0, 1.75, 2),
        penalties.length_penalty(x, torch.tensor([256]), 1.0, 50),
        filters.top_k(x, VOCAB),
        filters.top_p(x, 1.0),
        filters.typical(x, 1.0),
        filters.epsilon_cutoff(x, 0.0),
        filters.eta_cutoff(x, 0.0),
        filters.xtc(x, 0.1, 0.0, ctx.uniform),
        filters.mirostat(x, torch.full((3,), 1e9)),
        filters.top_n_sigma(x, 1e9),
    ]
    for result in same:
        torch.testing.assert_close(result, x, rtol=1e-12, atol=0)


def test_default_order_is_penalties_then_temperature_then_truncation() -> None:
    names = [name for name, _, _ in build_pipeline(NEUTRAL, VOCABULARY).describe()]
    place = {name: index for index, name in enumerate(names)}
    penalising = ("repetition_penalty", "presence_penalty", "frequency_penalty", "dry", "logit_bias", "length_penalty")
    cutting = ("top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "epsilon_cutoff", "eta_cutoff", "xtc", "mirostat")
    assert max(place[name] for name in penalising) < place["temperature"] < min(place[name] for name in cutting)
    assert place["banned_tokens"] == 0


def test_every_parameter_that_shapes_logits_is_described() -> None:
    elsewhere = {
        "max_tokens",
        "max_total_tokens",
        "stop",
        "order",
        "seed",
        "num_samples",
        "best_of",
        "separator_first",
        "beams",
        "beam_length_penalty",
        "lookup",
        "weights",
    }
    shown = {name for item in PROCESSORS for name in item.fields}
    assert shown | elsewhere == set(DecodeConfig.__dataclass_fields__)


def test_everything_at_once_leaves_a_distribution() -> None:
    pipeline = build_pipeline(EVERYTHING, VOCABULARY)
    active = [name for name, active, _ in pipeline.describe() if active]
    assert len(active) == len(PROCESSORS) - 1  # the dynamic temperature takes the place of the fixed one
    p = torch.softmax(pipeline(logits(), moment()), -1)
    torch.testing.assert_close(p.sum(-1), torch.ones(3, dtype=torch.float64))
    assert not p[:, [ord("x"), TOKENIZER.special_tokens["<|user|>"], TOKENIZER.special_tokens["<|endoftext|>"]]].any()


def test_the_order_can_be_changed_and_matters() -> None:
    params = replace(NEUTRAL, temperature=2.0, top_p=0.5)
    usual = build_pipeline(params, VOCABULARY)(logits(), moment())
    turned = build_pipeline(replace(params, order=("top_p", "temperature")), VOCABULARY)
    assert [name for name, _, _ in turned.describe()][2:4] == ["top_p", "temperature"]
    expected = penalties.temperature(filters.top_p(logits(), 0.5), 2.0)
    assert torch.equal(turned(logits(), moment()), expected)
    assert not torch.equal(usual, expected)


def test_bans_hold_in_any_order() -> None:
    likeliest = int(logits()[0].argmax())
    params = replace(NEUTRAL, temperature=0.0, banned_tokens=(str(likeliest),), order=("temperature", "banned_tokens"))
    pipeline = build_pipeline(params, VOCABULARY)
    assert pipeline.describe()[0][:2] == ("banned_tokens", True)
    assert pipeline(logits(), moment())[0, likeliest] == -torch.inf


def test_greedy_is_greedy_with_a_dynamic_temperature() -> None:
    pipeline = build_pipeline(replace(NEUTRAL, temperature=0.0, dynamic_range=1.0), VOCABULARY)
    assert ((pipeline(logits(), moment()) > -torch.inf).sum(-1) == 1).all()


def test_the_defaults_do_nothing() -> None:
    pipeline = build_pipeline(DecodeConfig(), VOCABULARY)
    assert not any(active for _, active, _ in pipeline.describe())
    assert torch.equal(pipeline(logits(), moment()), logits())


@pytest.mark.parametrize("temperature", [1e-39, 1e-7])
def test_the_coldest_temperatures_are_greedy(temperature: float) -> None:
    x = logits().float()
    assert torch.equal(penalties.temperature(x, temperature), penalties.temperature(x, 0))


@pytest.mark.parametrize("bias", ["inf", "-inf", "1e39", "nan"])
def test_a_bias_that_would_leave_no_distribution_is_refused(bias: str) -> None:
    with pytest.raises(ConfigError, match="is not TOKEN=BIAS"):
        VOCABULARY.resolve(replace(NEUTRAL, logit_bias=(f"5={bias}",)))


@pytest.mark.parametrize(("order", "named"), [(("topk",), "'topk'"), (("top_k", "top_k"), "twice")])
def test_a_wrong_order_is_refused(order: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve_order(order)


def test_windows_limit_what_penalties_see() -> None:
    ctx = SamplingContext(torch.tensor([[5, 6, 7, 8]]), 0, torch.zeros(1), torch.zeros(1))
    x = torch.ones(1, VOCAB)
    params = replace(NEUTRAL, repetition_penalty=2.0, repetition_window=2, presence_penalty=0.25, penalty_window=1)
    result = build_pipeline(params, VOCABULARY)(x, ctx)[0]
    assert result[5:10].tolist() == [1.0, 1.0, 0.5, 0.25, 1.0]


def test_shortest_length_bans_the_end_only_until_it_is_reached() -> None:
    pipeline = build_pipeline(replace(NEUTRAL, min_tokens=4), VOCABULARY)
    end = TOKENIZER.special_tokens["<|endoftext|>"]
    assert pipeline(logits(), moment(3))[0, end] == -torch.inf
    assert torch.equal(pipeline(logits(), moment(4)), logits())
    never = build_pipeline(replace(NEUTRAL, ban_end=True), VOCABULARY)
    assert never(logits(), moment(10_000))[0, end] == -torch.inf


@pytest.mark.parametrize(
    ("text", "id"), [("97", 97), ("a", 97), ("'7'", 55), ('"9"', 57), ("=", 61), ("<|endoftext|>", 256)]
)
def test_tokens_are_named_by_id_or_text(text: str, id: int) -> None:
    tokens = VOCABULARY.resolve(replace(NEUTRAL, banned_tokens=(text,), logit_bias=(f"{text}=-2.5",)))
    assert tokens.banned.tolist() == tokens.biased.tolist() == [id]
    assert tokens.bias.tolist() == [-2.5]


def test_every_unknown_token_is_reported_at_once() -> None:
    params = replace(NEUTRAL, banned_tokens=("400", "two"), logit_bias=("a", "b=many", "999=1"))
    with pytest.raises(ConfigError) as caught:
        build_pipeline(params, VOCABULARY)
    assert len(caught.value.problems) == 5
    assert "'two' is 3 tokens, not one" in str(caught.value)


def test_breakers_are_the_tokens_that_hold_one() -> None:
    mask = VOCABULARY.resolve(replace(NEUTRAL, dry_multiplier=1.0)).breakers
    assert mask.nonzero().flatten().tolist() == sorted(map(ord, '\n:"*'))


def test_the_trace_shows_every_active_stage() -> None:
    params = replace(NEUTRAL, temperature=0.5, top_k=3)
    pipeline = build_pipeline(params, VOCABULARY)
    stages = explain(pipeline, logits(1), moment(rows=1), top=5)
    assert [stage.name for stage in stages] == ["model", "temperature", "top_k"]
    assert [stage.kept for stage in stages] == [VOCAB, VOCAB, 3]
    assert stages[0].entropy_bits > stages[1].entropy_bits > stages[2].entropy_bits
    p = torch.softmax(logits(1)[0], -1)
    token, probability = stages[0].top[0]
    assert (token, probability) == (int(p.argmax()), pytest.approx(float(p.max())))
    # tokens cut away are still listed, with probability 0
    assert len(stages[2].top) == 5
    assert [value for _, value in stages[2].top][3:] == [0.0, 0.0]
    assert sum(value for _, value in stages[2].top) == pytest.approx(1)
