"""With a KV cache and without: the same logits at every position, in float64, for the architecture of every preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.config import list_presets, load_preset, resolve_model
from llm.config.schema import ModelConfig
from llm.engine import reader as reading
from llm.engine import window_start
from llm.engine.reader import Reader
from llm.model.transformer import Transformer
from tests.model.models_for_tests import built, tokens

CONTEXT, VOCAB = 13, 61
NOWHERE = Path("no-such-home")
PRESETS = sorted(preset.name for preset in list_presets(NOWHERE) if not preset.mine)


def shrunk(name: str) -> ModelConfig:
    """The preset's architecture in small: its kinds of layers and its share of key heads, with other sizes."""
    whole = resolve_model(replace(load_preset(name, NOWHERE).model, vocab_size=0), VOCAB)
    key_heads = 2
    heads = key_heads * (whole.n_head // whole.n_kv_head)
    return replace(
        whole,
        n_layer=2,
        n_head=heads,
        n_kv_head=key_heads,
        d_model=6 * heads,
        d_ff=37,
        context=CONTEXT,
        vocab_size=VOCAB,
    )


def small_model(name: str) -> Transformer:
    return built(shrunk(name)).eval()


def test_all_presets_are_here() -> None:
    folder = Path(__file__).parents[2] / "presets"
    assert sorted(path.stem for path in folder.glob("*.toml")) == PRESETS


@torch.no_grad()
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("batch", "prompt_length"),
    [
        (7, 5),
        pytest.param(1, CONTEXT, marks=pytest.mark.slow),
        pytest.param(7, 2 * CONTEXT + 3, marks=pytest.mark.slow),  # test_context.py has every length
    ],
)
def test_cache_or_not_the_logits_are_the_same_at_every_position(
    name: str, batch: int, prompt_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK", 4)  # so that a short prompt is read in several blocks
    model = small_model(name)
    text = tokens(model.config, batch, prompt_length + 2 * CONTEXT)
    with_cache, without = Reader(model, batch), Reader(model, batch, use_cache=False)
    for length in range(prompt_length, text.shape[1] + 1):
        start = window_start(length, prompt_length, CONTEXT)
        ours = with_cache.read(text[:, :length], start)
        expected = model(text[:, start:length])[:, -1]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(without.read(text[:, :length], start), expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", PRESETS)
def test_what_the_engine_reads_within_a_prompt_is_right_too(name: str) -> None:
    """The logits at every position of a prompt read in pieces, not only at its end."""
    model = small_model(name)
    text = tokens(model.config, 7, CONTEXT)
    cache = reading.KVCache(model.config, 7, dtype=model.cache_dtype)
    read = torch.cat([model(piece, cache) for piece in text.split([4, 4, 1, 1, 3], dim=1)], dim=1)
    torch.testing.assert_close(read, model(text), rtol=1e-9, atol=1e-12)
