"""Reading drafted tokens ahead: the same text, log-probabilities and probabilities to the last bit, in fewer passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, Piece
from llm.engine import weights as engine_weights
from llm.engine.lookup import NGRAM, NgramIndex
from llm.model.packed import PackedTransformer
from tests.model.models_for_tests import tiny
from tests.model.test_packed import DTYPES, NEEDS_INT4, OPTIONS, model_of

from .test_engine import TOKENIZER

PROMPT = "the cat sat on the mat, the cat sat on the "


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each pass over the weights of a packed model; every model is packed."""
    counts: list[int] = []
    call = PackedTransformer.__call__

    def count(self: PackedTransformer, tokens: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        counts.append(tokens.shape[1])
        return call(self, tokens, *args, **more)

    monkeypatch.setattr(PackedTransformer, "__call__", count)
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 1)
    return counts


def pieces(engine: Engine, params: DecodeConfig) -> list[Piece]:
    return [piece for piece in engine.stream(PROMPT, params) if isinstance(piece, Piece)]


INT4 = pytest.param(torch.quint4x2, marks=NEEDS_INT4)


def cases() -> Iterator[Any]:
    """By default every kind of model in the first dtype, and one kind of model in the others."""
    for options, dtype in itertools.product(OPTIONS, (*DTYPES, pytest.param(torch.int8), INT4)):
        is_usual = dtype is DTYPES[0] or options is OPTIONS[0]
        marks = [*dtype.marks] if is_usual else [*dtype.marks, pytest.mark.slow]
        yield pytest.param(options, *dtype.values, marks=marks)


@pytest.mark.parametrize(("options", "dtype"), cases())
def test_the_text_is_the_same_to_the_last_bit(options: dict[str, Any], dtype: torch.dtype, passes: list[int]) -> None:
    """Also where the window of the context moves on; greedy, and sampled with every uniform number in its place."""
    model = model_of(tiny(**options | {"vocab_size": TOKENIZER.vocab_size, "context": 100}))
    integers = {torch.int8: "int8", torch.quint4x2: "int4"}
    narrow = {"weights": integers[dtype]} if dtype in integers else {"dtype": dtype}
    engine = Engine(model, TOKENIZER, **narrow)  # type: ignore[arg-type]
    for sampling in ({"temperature": 0.0}, {"temperature": 0.3, "repetition_penalty": 1.1, "seed": 3}):
        params = {"max_tokens": 90, "ban_end": True, **sampling}
        plain = pieces(engine, DecodeConfig(lookup=0, **params))
        passes.clear()
        assert pieces(engine, DecodeConfig(lookup=8, **params)) == plain
        if sampling["temperature"] == 0:
            assert len(passes) < len(plain) == 90, "a greedy tiny model soon repeats itself"


def test_several_texts_and_small_models_read_no_drafts(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tiny(vocab_size=TOKENIZER.vocab_size, context=100))
    params = DecodeConfig(temperature=0.0, max_tokens=40, ban_end=True)
    list(Engine(model, TOKENIZER).stream(PROMPT, params, num_samples=2))
    assert max(passes[1:]) == 1
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 10**9)
    passes.clear()
    assert pieces(Engine(model, TOKENIZER), params) and not passes


def test_a_draft_is_what_followed_the_latest_occurrence() -> None:
    index = NgramIndex()
    index.extend([1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2])
    assert index.draft(4) == []
    index.extend([3])
    assert index.draft(4) == [9, 8, 1, 2] and index.draft(1) == [9]
    assert NgramIndex().draft(3) == [] and NGRAM == 3
