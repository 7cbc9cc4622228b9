"""Best of n: the order of the replies, and what the engine, the chat and a batch of prompts return."""

from __future__ import annotations

import math

import pytest
import torch

from llm.config import DecodeConfig
from llm.config.resolve import resolve_model
from llm.config.schema import ModelConfig
from llm.engine import Done, Engine, Piece
from llm.errors import WrongUse
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
PARAMS = DecodeConfig(max_tokens=9, seed=3, num_samples=5)


def engine() -> Engine:
    model = Transformer(resolve_model(ModelConfig(n_layer=1, d_model=24, n_head=2, context=64), TOKENIZER.vocab_size))
    model.init_weights(torch.Generator().manual_seed(1))
    for parameter in model.parameters():
        parameter.data.mul_(4)  # distributions that are far from uniform
    return Engine(model.eval(), TOKENIZER)


def replies(params: DecodeConfig, num_samples: int | None = None) -> tuple[list[tuple[float, list[int]]], Done]:
    """(mean log-probability, tokens) of every sample, and the end."""
    found: dict[int, list[Piece]] = {}
    for item in engine().stream("Once", params, num_samples=num_samples):
        if isinstance(item, Done):
            return [
                (sum(piece.logprob for piece in pieces) / len(pieces), [int(piece.token_id or 0) for piece in pieces])
                for _, pieces in sorted(found.items())
            ], item
        if item.token_id is not None:
            found.setdefault(item.sample, []).append(item)
    raise AssertionError("no end")


def test_the_replies_are_those_of_separate_samples_with_the_likeliest_first() -> None:
    samples, _ = replies(PARAMS)
    ranked = sorted(samples, key=lambda sample: -sample[0])
    assert ranked != samples
    every, end = replies(DecodeConfig(max_tokens=9, seed=3, best_of=5), num_samples=5)
    assert [tokens for _, tokens in every] == [tokens for _, tokens in ranked]
    assert all(math.isclose(one[0], other[0], abs_tol=1e-5) for one, other in zip(every, ranked, strict=True))
    (best,), end = replies(DecodeConfig(max_tokens=9, seed=3, best_of=5))
    assert best[1] == ranked[0][1] and len(end.reasons) == 1 and end.tokens == sum(len(row) for _, row in samples)


def test_a_batch_of_prompts_returns_the_best_of_each() -> None:
    params = DecodeConfig(max_tokens=9, seed=3, best_of=5)
    (one, other) = engine().complete(["Once", "What"], params)
    text = "".join(item.text for item in engine().stream("Once", params) if isinstance(item, Piece))
    assert one.texts == (text,) and len(other.texts) == 1


def test_beam_search_refuses_best_of() -> None:
    with pytest.raises(WrongUse, match="Beam search returns the likeliest texts already"):
        engine().stream("Once", DecodeConfig(beams=2, best_of=2))
