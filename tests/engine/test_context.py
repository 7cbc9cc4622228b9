"""The context rule, and that a cache changes nothing: the same logits at every position, in float64."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm.config.schema import ModelConfig
from llm.engine import reader as reading
from llm.engine import window_start
from llm.engine.reader import Reader
from llm.model.transformer import Transformer

CONTEXT, VOCAB = 13, 61
BASE = ModelConfig(
    n_layer=2, d_model=24, n_head=6, n_kv_head=2, d_ff=44, context=CONTEXT, vocab_size=VOCAB, init_std=0.3
)
HALVES = {"rope_pairs": "halves", "qk_norm": True, "softcap": 15.0, "mlp": "relu2", "tied_head": False}
LEARNED = {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True, "qkv_bias": True, "n_kv_head": 6}
SHAPES: dict[str, dict[str, Any]] = {"rope": {}, "rope halves, qk norm, softcap": HALVES, "learned": LEARNED}


def make_model(shape: str) -> Transformer:
    model = Transformer(replace(BASE, **SHAPES[shape])).double()
    model.init_weights(torch.Generator().manual_seed(4))
    return model.eval()


def texts(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(batch * 31 + length))


LENGTHS = (1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT + 2)
USUAL = {
    *(("rope", 7, length) for length in LENGTHS),
    *((shape, 7, length) for shape in SHAPES for length in (5, LENGTHS[-1])),
    ("learned", 1, CONTEXT + 1),
}
"""Every kind of model and every length of a prompt, not all of them together."""


@pytest.mark.parametrize(
    ("shape", "batch", "prompt_length"),
    [
        pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow)
        for case in itertools.product(SHAPES, (1, 7), LENGTHS)
    ],
)
def test_cache_or_not_the_logits_are_the_same_at_every_position(
    shape: str, batch: int, prompt_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK", 4)  # so that a short prompt is read in several blocks
    model = make_model(shape)
    tokens = texts(batch, prompt_length + 3 * CONTEXT)
    with_cache, without = Reader(model, batch), Reader(model, batch, use_cache=False)
    for length in range(prompt_length, tokens.shape[1] + 1):
        start = window_start(length, prompt_length, CONTEXT)
        ours = with_cache.read(tokens[:, :length], start)
        torch.testing.assert_close(ours, without.read(tokens[:, :length], start), rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            expected = model(tokens[:, start:length])[:, -1]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_expanded_and_selected_rows_continue_from_what_was_read(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 4)
    model = make_model(shape)
    prompt = texts(1, 6)
    reader = Reader(model)
    reader.begin(prompt[0].tolist(), 0)
    reader.read(prompt, 0)
    several = reader.expand(3)
    rows = torch.cat((prompt.expand(3, -1), torch.tensor([[1], [2], [3]])), dim=1)
    several.read(rows, 0)
    order = torch.tensor([2, 2, 0])
    several.select(order)
    rows = torch.cat((rows[order], torch.tensor([[4], [5], [6]])), dim=1)
    with torch.no_grad():
        expected = model(rows)[:, -1]
    torch.testing.assert_close(several.read(rows, 0), expected, rtol=1e-9, atol=1e-12)
    # the reader it came from has not moved
    longer = torch.cat((prompt, torch.tensor([[9]])), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(reader.read(longer, 0), model(longer)[:, -1], rtol=1e-9, atol=1e-12)


def test_a_shared_beginning_is_kept_in_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 4)
    model = make_model("rope")
    reader = Reader(model)
    first = texts(1, 11)
    reader.begin(first[0].tolist(), 0)
    reader.read(first, 0)
    second = first.clone()
    second[0, 9] = (second[0, 9] + 1) % VOCAB
    assert reader.begin(second[0].tolist(), 0) == 8
    with torch.no_grad():
        torch.testing.assert_close(reader.read(second, 0), model(second)[:, -1], rtol=1e-9, atol=1e-12)
    assert reader.begin(second[0, :8].tolist(), 0) == 4  # something must be left to read
    assert reader.begin([1, 2, 3], 0) == 0


@given(prompt=st.integers(1, 60), more=st.integers(0, 100), context=st.integers(1, 20))
def test_the_context_rule(prompt: int, more: int, context: int) -> None:
    length = prompt + more
    start = window_start(length, prompt, context)
    assert 0 <= start < length
    assert length - start <= context
    if prompt >= context and more == 0:
        assert length - start == context  # a long prompt keeps its last tokens, as many as fit
    if length <= context:
        assert start == 0
    if more:
        before = window_start(length - 1, prompt, context)
        full = length - 1 - before == context
        assert start == (before + max(1, context // 2) if full else before)
