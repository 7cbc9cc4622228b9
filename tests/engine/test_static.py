"""The static step gives the logits of ordinary decoding, with the same operations at every position."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, static, window_start
from llm.engine import reader as reading
from llm.engine.reader import Reader
from llm.model.attention import KVCache
from llm.model.packed import InferenceModel, PackedTransformer
from llm.model.transformer import Transformer
from tests.engine.test_engine import TOKENIZER, collect, make_model
from tests.engine.test_presets import CONTEXT, PRESETS, small_model
from tests.model.models_for_tests import tokens

KINDS: dict[str, Callable[[Transformer], InferenceModel]] = {
    "module": lambda model: model,
    "packed": lambda model: PackedTransformer(model, torch.float64),
}
SEVERAL = ("cs336-assignment", "gpt2-124m", "nanochat-base")
SIZES = ((7, 1), (1, 5), (1, CONTEXT), (7, 2 * CONTEXT + 3))
"""Batches, and lengths of a prompt."""
USUAL = {
    (True, "module"): (SIZES[0], SIZES[3]),
    (True, "packed"): (SIZES[1], SIZES[2], SIZES[3]),
    (False, "module"): (),
    (False, "packed"): (SIZES[1],),
}
"""Those tested by default, by whether a preset is one of `SEVERAL`, and by the kind of model."""


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode with the static step, as on a GPU."""
    monkeypatch.setattr(static, "is_supported", lambda device: True)
    monkeypatch.setattr(reading, "BLOCK", 4)  # so that a short prompt is read in several blocks


@torch.no_grad()
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("name", "kind", "batch", "prompt_length"),
    [
        pytest.param(name, kind, *size, marks=() if size in USUAL[name in SEVERAL, kind] else pytest.mark.slow)
        for name, kind, size in itertools.product(PRESETS, KINDS, SIZES)
    ],
)
def test_the_logits_are_the_same_at_every_position(name: str, batch: int, prompt_length: int, kind: str) -> None:
    model = small_model(name)
    text = tokens(model.config, batch, prompt_length + 2 * CONTEXT)
    reader = Reader(KINDS[kind](model), batch)
    for length in range(prompt_length, text.shape[1] + 1):
        start = window_start(length, prompt_length, CONTEXT)
        expected = model(text[:, start:length])[:, -1]
        torch.testing.assert_close(reader.read(text[:, :length], start), expected, rtol=1e-9, atol=1e-12)


class Work(TorchDispatchMode):
    """Every operation, with the shapes and strides of its tensors, and the memory of those that were there before."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.done = known, list[Any]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.done.append((str(func), *map(self.described, args), *map(self.described, (kwargs or {}).values())))
        return func(*args, **(kwargs or {}))

    def described(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self.described(one) for one in value]
        if not isinstance(value, torch.Tensor):
            return value
        memory = value.untyped_storage().data_ptr()
        return tuple(value.shape), value.stride(), value.storage_offset(), memory if memory in self.known else None


@torch.no_grad()
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", SEVERAL)
def test_the_work_is_the_same_at_every_position_and_nothing_is_read_back(name: str, kind: str) -> None:
    model = KINDS[kind](small_model(name))
    cache = KVCache(model.config, 3, dtype=torch.float64)
    step = static.StaticStep(model, cache)
    inside = step.cache
    known = {one.untyped_storage().data_ptr() for one in (inside.kv, inside.at, inside.attn_mask, step.tokens)}
    records = []
    for position in (0, 1, 7, CONTEXT - 1):
        step(torch.full((3, 1), position), position)
        with Work(known) as work:
            step.forward()
        records.append(work.done)
    assert records[0] == records[1] == records[2] == records[3]
    names = {entry[0] for entry in records[0]}
    assert {"aten.le.Tensor_out", "aten.index_copy_.default"} <= names
    assert not {name for name in names if "_local_scalar_dense" in name or "nonzero" in name}
    assert {memory for entry in records[0] for memory in _memories(entry)} >= known


def _memories(entry: Any) -> list[int]:
    """Those known, of one operation's arguments."""
    if isinstance(entry, tuple) and len(entry) == 4 and isinstance(entry[0], tuple):
        return [entry[3]] if entry[3] is not None else []
    return [one for part in entry for one in _memories(part)] if isinstance(entry, list | tuple) else []


PARAMS = DecodeConfig(temperature=0.9, top_p=0.95, max_tokens=75, seed=4)  # past the context of 48


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("changes", [{}, {"num_samples": 3}, {"beams": 3}])
def test_replies_are_the_same(changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the engine, also past `CAPTURE_AFTER`: a CPU cannot capture, and no warning is emitted."""
    model, params = make_model().double(), replace(PARAMS, **changes)
    engine = Engine(model, TOKENIZER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replies = [collect(engine, prompt, params) for prompt in ("Once upon a time", "Once upon a tree")]
    monkeypatch.setattr(static, "is_supported", lambda device: False)
    fresh = Engine(model, TOKENIZER)
    for prompt, reply in zip(("Once upon a time", "Once upon a tree"), replies, strict=True):
        assert reply[:2] == collect(fresh, prompt, params)[:2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can capture")
def test_capture_without_a_gpu_returns_none() -> None:
    assert static.capture(lambda: torch.zeros(1)) is None


def test_the_captured_step_replaces_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `CAPTURE_AFTER` tokens, once; and its result is the caller's to keep."""
    model = make_model()
    step = static.StaticStep(model, KVCache(model.config, 1))
    captures, replays = [], []

    def capture(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        captures.append(at)
        memory = step()

        def replay() -> torch.Tensor:
            replays.append(at)
            return memory.copy_(step())

        return replay

    monkeypatch.setattr(static, "capture", capture)
    text = tokens(model.config, 1, 20)
    logits = []
    for at in range(20):
        logits.append(step(text[:, at : at + 1], at)[0])
    found = torch.stack(logits)
    assert captures == [static.CAPTURE_AFTER]
    assert len(replays) == 20 - static.CAPTURE_AFTER
    with torch.no_grad():
        torch.testing.assert_close(found, model(text)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_captured_on_a_gpu_it_gives_the_same(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[object] = []
    capture = static.capture
    monkeypatch.setattr(static, "capture", lambda step: (captures.append(capture(step)), captures[-1])[1])
    model = small_model(name)
    text = tokens(model.config, 3, 5 + 3 * CONTEXT)
    on_gpu: InferenceModel = (
        PackedTransformer(model, torch.float64, "cuda") if kind == "packed" else small_model(name).cuda()
    )
    reader = Reader(on_gpu, 3)
    for length in range(5, text.shape[1] + 1):
        start = window_start(length, 5, CONTEXT)
        expected = model(text[:, start:length])[:, -1]
        ours = reader.read(text[:, :length].cuda(), start)
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-8, atol=1e-11)
    assert captures and all(captured is not None for captured in captures), "it was captured"
