"""Reading a text in pieces with the cache equals reading it at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.model.attention import KVCache
from llm.model.transformer import Transformer
from tests.model.models_for_tests import built, relative_error, tiny, tokens

OPTIONS: list[dict[str, Any]] = [
    {},
    {"rope_pairs": "halves", "qk_norm": True, "softcap": 4.0},
    {"position": "learned", "n_kv_head": 2, "norm": "layernorm", "bias": True},
    {"embedding_conv": 4},
]


def read(model: Transformer, text: torch.Tensor, cache: KVCache, pieces: list[int]) -> torch.Tensor:
    logits = []
    for piece in text.split(pieces, dim=1):
        logits.append(model(piece, cache))
    return torch.cat(logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("pieces", [[13], [1] * 13, [5] + [1] * 8, [5, 3, 1, 4]])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_whole_text(options: dict[str, Any], pieces: list[int], batch: int, kernels: str) -> None:
    model = built(tiny(**options), kernels=kernels)
    text = tokens(model.config, batch, 13)
    cache = KVCache(model.config, batch, dtype=torch.float64)
    logits, whole = read(model, text, cache, pieces), model(text)
    assert cache.length == 13
    for position in range(13):
        assert relative_error(logits[:, position], whole[:, position]) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS[::3])
def test_a_shared_prefix_is_read_once(options: dict[str, Any]) -> None:
    model = built(tiny(**options))
    first, second = tokens(model.config, 1, 13), tokens(model.config, 1, 13, seed=12)
    second[:, :5] = first[:, :5]
    cache = KVCache(model.config, 1, dtype=torch.float64)
    model(first, cache)
    cache.truncate(5)
    assert relative_error(model(second[:, 5:], cache), model(second)[:, 5:]) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS[::3])
def test_one_prompt_continued_in_several_ways(options: dict[str, Any]) -> None:
    model = built(tiny(**options))
    texts = tokens(model.config, 5, 11)
    texts[:, :6] = texts[0, :6]
    prompt = KVCache(model.config, 1, dtype=torch.float64, length=12)
    model(texts[:1, :6], prompt)
    cache = prompt.expand(5)
    assert relative_error(model(texts[:, 6:9], cache), model(texts)[:, 6:9]) < 1e-9
    rows = torch.tensor([3, 0, 0, 4, 1])
    cache.select(rows)
    texts = torch.cat((texts[rows, :9], texts[:, 9:]), dim=1)
    assert relative_error(model(texts[:, 9:], cache), model(texts)[:, 9:]) < 1e-9
    assert (prompt.length, prompt.batch_size, cache.length, cache.batch_size) == (6, 1, 11, 5)


@torch.no_grad()
def test_capacity_is_checked_before_writing() -> None:
    model = built(tiny())
    cache = KVCache(model.config, 2, dtype=torch.float64, length=5)
    model(tokens(model.config, 2, 3), cache)
    before = cache.kv[..., :3, :].clone()
    with pytest.raises(ValueError, match="holds 3 of 5 positions: 3 more do not fit"):
        model(tokens(model.config, 2, 3), cache)
    assert cache.length == 3
    assert torch.equal(cache.kv[..., :3, :], before)
    with pytest.raises(ValueError, match="cannot be truncated to 4"):
        cache.truncate(4)
    with pytest.raises(ValueError, match="one sequence"):
        cache.expand(3)
