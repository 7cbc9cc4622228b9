"""Decoding on a GPU, on a stand-in (`tests/cuda_for_tests.py`): the captured graph, what is packed, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, static
from llm.engine import weights as engine_weights
from llm.engine.weights import inference_model
from llm.errors import WrongUse
from llm.model.packed import PackedTransformer
from tests.cuda_for_tests import Gpu
from tests.engine.test_devices import EVERYTHING
from tests.engine.test_engine import TOKENIZER, collect, make_model

LONG = DecodeConfig(temperature=0.9, top_p=0.95, max_tokens=75, seed=4)  # past the context of 48


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "module"])
@pytest.mark.parametrize("params", [replace(LONG, num_samples=3), replace(LONG, beams=3), EVERYTHING])
def test_the_captured_graph_gives_the_text_of_the_cpu(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, params: DecodeConfig, packed: bool
) -> None:
    model = make_model().double()
    expected = collect(Engine(model, TOKENIZER), "Once upon", params)[:2]
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 0 if packed else 10**9)
    engine = Engine(model, TOKENIZER, device="cuda:1")
    assert isinstance(engine.model, PackedTransformer) is packed
    assert collect(engine, "Once upon", params)[:2] == expected
    assert gpu.calls["capture thread_local"] == 1 and gpu.calls["replay"] > 20
    assert gpu.current == 0, "the current device of the thread is restored"


@pytest.mark.parametrize("reason", ["waits", "memory"])
def test_without_a_graph_it_decodes_eagerly(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """An operation that cannot be captured, or a GPU that is full at that moment."""
    model = make_model().double()
    expected = collect(Engine(model, TOKENIZER), "Once upon", LONG)[:2]
    capture = static.capture

    def fail(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor] | None:
        def wait() -> torch.Tensor:
            if gpu.recording is not None and reason == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            logits = step()
            logits.sum().item()
            return logits

        return capture(wait)

    monkeypatch.setattr(static, "capture", fail)
    assert collect(Engine(model, TOKENIZER, device="cuda"), "Once upon", LONG)[:2] == expected
    assert gpu.calls["capture thread_local"] == 1 and gpu.calls["replay"] == 0
    assert gpu.calls["stream waits for stream"] == 2, "what follows waits for the side stream here too"


def test_what_a_gpu_decodes_with(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model in bfloat16, a small one as it is, and no int8."""
    model = make_model()
    assert inference_model(model, device="cuda:1").head_weight.device == torch.device("cuda:1")
    assert isinstance(inference_model(model, device="cuda"), type(model))
    with pytest.raises(WrongUse, match=r"decode.weights = int8 is for CPUs, not cuda"):
        inference_model(model, device="cuda", weights="int8")
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 0)
    packed = inference_model(model, device="cuda:1")
    assert isinstance(packed, PackedTransformer) and packed.head_weight.dtype == torch.bfloat16
    assert packed.head_weight.device == packed.embedding.device == torch.device("cuda:1")
    assert not packed.has_independent_rows
    collect(Engine(model, TOKENIZER, device="cuda:1"), "Once upon", LONG)
    assert gpu.calls["replay"] > 20


def test_the_weights_of_a_step_replace_those_that_were_captured(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_weights, "PACKED_FROM", 0)
    first, second = (make_model(seed).double() for seed in (0, 1))
    engine = Engine(first, TOKENIZER, device="cuda")
    collect(engine, "Once upon", LONG)
    engine.refresh(second, 1)
    assert collect(engine, "Once upon", LONG)[:2] == collect(Engine(second, TOKENIZER), "Once upon", LONG)[:2]
    assert gpu.calls["capture thread_local"] == 2
