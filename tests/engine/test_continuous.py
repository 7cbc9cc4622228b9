"""Requests that share forward passes get the text that each gets alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Completion, Engine, continuous
from llm.engine.continuous import ContinuousBatch, NewToken, Request
from llm.errors import ConfigError
from llm.model.packed import PackedTransformer
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
END = TOKENIZER.special_tokens["<|endoftext|>"]
CONFIG = ModelConfig(n_layer=2, d_model=24, n_head=3, n_kv_head=3, d_ff=40, context=150, vocab_size=260)
PARAMS = DecodeConfig(max_tokens=9, seed=5)
REQUESTS = [
    ("Once", PARAMS),
    ("long ago, " * 13, replace(PARAMS, seed=6, max_tokens=20)),
    ("The fox", replace(PARAMS, num_samples=3, logit_bias=(f"{END}=4",))),
    ("a bear", replace(PARAMS, temperature=0.0, max_tokens=12)),
    ("从前", replace(PARAMS, repetition_penalty=1.3, no_repeat_ngram=2, min_tokens=3)),
    ("Two", replace(PARAMS, mirostat_tau=4.0, xtc_probability=0.5, xtc_threshold=0.05, num_samples=2)),
    ("Here", replace(PARAMS, stop=("e", "a"), top_p=0.9, presence_penalty=0.5)),
    ("x", PARAMS),
    ("End", replace(PARAMS, ban_end=True)),
    ("less", replace(PARAMS, ban_end=True, max_tokens=14, seed=8)),
]


def make_model(**changes: object) -> Transformer:
    model = Transformer(replace(CONFIG, init_std=0.4, **changes)).double()  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def request(prompt: str, params: DecodeConfig, top_logprobs: int = 0) -> Request:
    return Request(tuple(TOKENIZER.encode(prompt)), params, top_logprobs)


def texts(tokens: list[NewToken], wanted: Request) -> tuple[list[str], list[str]]:
    """The texts and reasons of the samples of a request."""
    own = [token for token in tokens if token.request is wanted]
    samples = range(wanted.params.num_samples)
    return (
        ["".join(token.text for token in own if token.sample == sample) for sample in samples],
        [token.reason for sample in samples for token in own if token.sample == sample and token.reason],
    )


@pytest.mark.parametrize(
    ("max_rows", "packed"),
    [
        (3, True),
        (32, False),
        pytest.param(3, False, marks=pytest.mark.slow),
        pytest.param(32, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "learned"}, {"rope_pairs": "halves", "n_kv_head": 1, "qk_norm": True}, {"embedding_conv": 4}],
)
def test_each_is_as_it_would_be_alone(changes: dict[str, object], max_rows: int, packed: bool) -> None:
    model = make_model(**changes)
    batch = ContinuousBatch(PackedTransformer(model, torch.float64) if packed else model, TOKENIZER)
    batch.max_rows = max_rows
    waiting = [request(prompt, params) for prompt, params in REQUESTS]
    found: list[NewToken] = []
    steps = 0
    asked = list(waiting)
    while waiting or not batch.is_empty:
        if waiting and batch.has_room(waiting[0]) and steps % 2 == 0:  # they join while others are at work
            batch.add(waiting.pop(0))
        found += batch.step()
        steps += 1
    engine = Engine(model, TOKENIZER)
    for one in asked:
        alone = Completion.from_reply(engine.stream(one.prompt, one.params))[0]
        assert texts(found, one) == (list(alone.texts), list(alone.reasons))
    assert steps < sum(one.params.max_tokens for one in asked)


def test_the_log_probabilities_are_those_of_the_model() -> None:
    model = make_model()
    batch = ContinuousBatch(model, TOKENIZER)
    asked = request("Once", replace(PARAMS, temperature=0.5, top_k=3), 4)
    batch.add(asked)
    batch.add(request("The", PARAMS))
    found: list[NewToken] = []
    while not batch.is_empty:
        found += batch.step()
    own = [token for token in found if token.request is asked]
    ids = torch.tensor([[*asked.prompt, *(token.token_id for token in own)]])
    with torch.no_grad():
        expected = torch.log_softmax(model(ids)[0, len(asked.prompt) - 1 : -1, : TOKENIZER.vocab_size], dim=-1)
    for token, row in zip(own, expected, strict=True):
        assert token.logprob == pytest.approx(float(row[token.token_id]))
        values, order = row.topk(4)
        assert [id for id, _ in token.top] == order.tolist()
        assert [value for _, value in token.top] == pytest.approx(values.tolist())
    assert all(token.top == () for token in found if token.request is not asked)


@pytest.mark.parametrize("block", [256, 5])
@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_an_echo_has_the_log_probabilities_of_the_prompt(
    block: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "BLOCK", block)
    model = make_model()
    batch = ContinuousBatch(model, TOKENIZER)
    text = "从前, twice upon a time"
    asked = Request(tuple(TOKENIZER.encode(text)), replace(PARAMS, num_samples=2, max_tokens=max_tokens), 3, echo=True)
    other = request("The", PARAMS)
    batch.add(other)
    batch.add(asked)
    found: list[NewToken] = []
    while not batch.is_empty:
        found += batch.step()
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([asked.prompt]))[0, :, : TOKENIZER.vocab_size], dim=-1)
    for sample in range(2):
        own = [token for token in found if token.request is asked and token.sample == sample]
        first, *rest = [token for token in own if token.is_prompt]
        assert (first.logprob, first.top) == (None, ())
        assert [token.logprob for token in rest] == pytest.approx(
            [float(row[token]) for row, token in zip(log_p, asked.prompt[1:], strict=False)]
        )
        assert [[id for id, _ in token.top] for token in rest] == log_p[:-1].topk(3).indices.tolist()
        assert "".join(token.text for token in (first, *rest)) == text
        assert (len(own), own[-1].reason) == (len(asked.prompt) + max_tokens, "length")
    assert not any(token.is_prompt for token in found if token.request is other)


def test_a_text_ends_where_the_context_is_full() -> None:
    batch = ContinuousBatch(make_model(), TOKENIZER)
    asked = request("x" * 140, replace(PARAMS, max_tokens=99, ban_end=True))
    batch.add(asked)
    found: list[NewToken] = []
    while not batch.is_empty:
        found += batch.step()
    assert (len(found), found[-1].reason) == (CONFIG.context - 140, "length")


def test_a_canceled_request_frees_its_rows_and_changes_no_other() -> None:
    model = make_model()
    batch = ContinuousBatch(model, TOKENIZER)
    batch.max_rows = 4
    dropped = request("x" * 140, replace(PARAMS, num_samples=3, ban_end=True))
    kept = request("Once", PARAMS)
    batch.add(dropped)
    batch.add(kept)
    assert not batch.has_room(kept)
    found = batch.step()
    batch.cancel(dropped)
    assert batch.has_room(request("a", replace(PARAMS, num_samples=3)))
    while not batch.is_empty:
        found += batch.step()
    alone = Completion.from_reply(Engine(model, TOKENIZER).stream(kept.prompt, PARAMS))[0]
    assert texts(found, kept)[0] == list(alone.texts)


def test_an_unknown_token_is_refused() -> None:
    batch = ContinuousBatch(make_model(), TOKENIZER)
    with pytest.raises(ConfigError, match="logit_bias"):
        batch.add(request("a", replace(PARAMS, logit_bias=("9999=1",))))
    assert batch.is_empty
