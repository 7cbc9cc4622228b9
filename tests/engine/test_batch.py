"""A batch of prompts gives the text each prompt gives alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Completion, Engine
from llm.engine import batch as batching
from llm.errors import WrongUse
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
END = TOKENIZER.special_tokens["<|endoftext|>"]
CONFIG = ModelConfig(n_layer=2, d_model=24, n_head=3, n_kv_head=3, d_ff=40, context=20, vocab_size=TOKENIZER.vocab_size)
PROMPTS = ["Once", "", "The fox", "Two", "long ago, " * 4, "Here", "a bear", "从前", "Once"]
PARAMS = DecodeConfig(temperature=1.0, max_tokens=23, seed=5, num_samples=2)


@pytest.fixture
def engine() -> Engine:
    """Ends early now and then: random weights, with the end of text made likelier by a bias where a test asks."""
    model = Transformer(replace(CONFIG, init_std=0.4)).double()
    model.init_weights(torch.Generator().manual_seed(0))
    return Engine(model.eval(), TOKENIZER)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_samples": 1, "temperature": 0.0},
        {"logit_bias": (f"{END}=4",), "repetition_penalty": 1.3, "top_p": 0.9},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05, "mirostat_tau": 4.0},
        {"beams": 3, "num_samples": 2},
    ],
)
def test_each_is_as_it_would_be_alone(
    engine: Engine, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PARAMS, **changes)  # type: ignore[arg-type]
    alone = [Completion.from_reply(engine.stream(prompt, params))[0] for prompt in PROMPTS]
    for rows in (1, 4, 32):
        monkeypatch.setattr(batching, "MAX_ROWS", rows)
        together = engine.complete(PROMPTS, params)
        assert together == alone, f"{rows} rows at once"
    assert together[0] == together[-1]
    if "logit_bias" in changes:
        assert {"stop", "length"} == {reason for one in together for reason in one.reasons}


def test_prompts_of_equal_length_are_read_together() -> None:
    assert batching.group_by_length([3, 5, 3, 3, 5, 1], 2) == [[5], [0, 2], [3], [1, 4]]


def test_memory_bounds_how_many_go_together(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 2 * 2 * 24 * 20 * 8  # keys and values of two layers, 24 wide, 20 positions, in float64
    monkeypatch.setattr(batching, "CACHE_BYTES", 7 * each)
    assert batching.max_batch_prompts(engine.model, 1) == 7
    assert batching.max_batch_prompts(engine.model, 3) == 2
    monkeypatch.setattr(batching, "CACHE_BYTES", 1)
    assert batching.max_batch_prompts(engine.model, 3) == 1


def test_a_prompt_without_room_is_refused(engine: Engine) -> None:
    with pytest.raises(WrongUse, match="raise the limit or shorten"):
        engine.complete(["a", "a long one"], replace(PARAMS, max_total_tokens=5))
