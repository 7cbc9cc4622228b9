"""The explained distributions are those the reply was sampled from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, Piece
from llm.engine.inspect import next_logits
from tests.engine.test_engine import TOKENIZER, make_model

PARAMS = DecodeConfig(temperature=0.9, top_k=40, max_tokens=71, seed=5, ban_end=True)  # past the context of 48


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mirostat_tau": 3.0},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05},
        {"repetition_penalty": 1.3, "dry_multiplier": 0.8},
    ],
)
def test_explained_distribution_is_the_sampled_one(changes: dict[str, float]) -> None:
    params = replace(PARAMS, **changes)
    engine = Engine(make_model(), TOKENIZER)
    pieces = [item for item in engine.stream("Once upon", params) if isinstance(item, Piece)]
    tokens = [piece.token_id for piece in pieces if piece.token_id is not None]
    assert len(tokens) == 71
    for at in (0, 1, 37, 40, 70):
        stages = engine.explain("Once upon", params, generated=tokens[:at], also=tokens[at : at + 1])
        probability = dict(stages[-1].top)[tokens[at]]
        assert probability == pytest.approx(pieces[at].probability, rel=1e-3), at
        as_model = dict(stages[0].top)[tokens[at]]
        assert torch.tensor(as_model).log().item() == pytest.approx(pieces[at].logprob, abs=1e-3), at


@pytest.mark.parametrize("changes", [{}, {"mirostat_tau": 3.0}])
def test_all_tokens_explained_in_one_go_are_as_each_alone(changes: dict[str, float]) -> None:
    params = replace(PARAMS, max_tokens=50, **changes)
    engine = Engine(make_model(), TOKENIZER)
    pieces = [item for item in engine.stream("Once upon", params) if isinstance(item, Piece)]
    tokens = [piece.token_id for piece in pieces if piece.token_id is not None]
    each = list(engine.explain_each("Once upon", params, tokens))
    assert len(each) == 50
    for at in (0, 20, 49):
        alone = engine.explain("Once upon", params, generated=tokens[:at], also=[tokens[at]])
        assert [(stage.name, stage.kept) for stage in each[at]] == [(stage.name, stage.kept) for stage in alone]
        assert dict(each[at][-1].top)[tokens[at]] == pytest.approx(dict(alone[-1].top)[tokens[at]], rel=1e-5)


def test_next_logits_are_those_of_the_reply() -> None:
    model = make_model()
    engine = Engine(model, TOKENIZER)
    pieces = [item for item in engine.stream("Once upon", PARAMS) if isinstance(item, Piece)]
    tokens = [piece.token_id for piece in pieces if piece.token_id is not None]
    logits = next_logits(model, engine.prompt_ids("Once upon", PARAMS), tokens, TOKENIZER.vocab_size)
    assert logits.shape == (71, TOKENIZER.vocab_size)
    logprobs = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    assert logprobs.tolist() == pytest.approx([piece.logprob for piece in pieces], abs=1e-3)
    assert next_logits(model, [1], [], 7).shape == (0, 7)
