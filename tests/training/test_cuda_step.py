"""What a training step does on CUDA only: copies that do not block, and free memory. Without a GPU on tensors without
data (torch's fake tensors), which run the same code; with one, a run against the same run on the CPU.

A build of torch for CPUs has no gradients and no `copy_` to fake CUDA tensors, so that forward, backward and update are
run on a GPU only; `tests/optim/test_no_waiting.py` shows that an update reads no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from llm.config import from_mapping, resolve_model
from llm.device import Plan
from llm.limits import Memory
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from llm.run import Run
from llm.training import micro_batch
from llm.training.batch_plan import resolve_batch_plan
from llm.training.context import StepContext
from llm.training.run import run_training
from llm.training.state import TrainerState
from llm.training.step import AsyncScalars, seed_generators, to_device

from .conftest import MakeRun
from .test_resume import StopAfter, assert_same_end, losses


class Pinned:
    """Stands in for pinned memory: `to` counts a copy that does not block."""

    def __init__(self, tensor: torch.Tensor, calls: list[str]) -> None:
        self.tensor, self.calls = tensor, calls

    def to(self, device: str, *, non_blocking: bool) -> torch.Tensor:
        self.calls.append("copy" if non_blocking else "blocking copy")
        return torch.empty(self.tensor.shape, dtype=self.tensor.dtype, device=device)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Copies, events and waits, in an environment where CUDA tensors have no data."""
    found: list[str] = []

    class Event:
        def record(self) -> None:
            found.append("record")

        def synchronize(self) -> None:
            found.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: Pinned(tensor, found))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield found


def test_batches_are_copied_from_pinned_memory_and_measurements_to_it(calls: list[str]) -> None:
    tokens = to_device(np.zeros((4, 8), np.int64)[:, ::2], "cuda:0")
    assert tokens.is_cuda and tokens.is_contiguous() and calls == ["copy"]
    scalars = AsyncScalars([torch.empty((), device="cuda"), torch.empty((), device="cuda", dtype=torch.bool)])
    assert [scalar.device.type for scalar in scalars.host] == ["cpu", "cpu"] and calls == ["copy", "record"]
    with pytest.raises(DataDependentOutputException):
        scalars.values()
    assert calls == ["copy", "record", "wait"], "only reading them waits"


def test_the_free_memory_of_a_gpu_limits_the_first_candidate(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_on_cuda({"train": {"batch_size": 0, "total_batch_tokens": 64 * 8}})
    monkeypatch.setattr(micro_batch, "memory", lambda: Memory(1, 1))  # that of the host does not matter
    for free, most in ((10**9, 64), (10, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**10))
        available = micro_batch.available_bytes(context)
        assert available == micro_batch.GPU_SHARE * free
        assert micro_batch.candidates(context, 64, available)[0] == most


def context_on_cuda(tables: dict[str, Any]) -> StepContext:
    shape = {"n_layer": 1, "d_model": 16, "n_head": 2, "context": 8}
    train = {"batch_size": 2, "accumulation": 2} | tables.get("train", {})
    config = from_mapping({"model": shape} | tables | {"train": train})
    with torch.device("cuda"):
        model = Transformer(resolve_model(config.model, 50))
        state = TrainerState(model, build_optimizer(model, config))
    return StepContext(config, state, Plan("cuda", "fp32", 1, compiled=False), resolve_batch_plan(config, 50, 0))


def test_on_a_cpu_a_seed_gives_the_numbers_of_manual_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**62 + 5)
        expected = torch.rand(3)
        seed_generators(2**62 + 5, "cpu")
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("compile", ["on", "off"])
def test_a_gpu_trains_like_the_cpu_and_resumes_bit_for_bit(make_run: MakeRun, tmp_path: Path, compile: str) -> None:
    fields = {"model__dropout": "0", "train__batch_size": "0", "train__total_batch_tokens": str(6 * 16)}

    def make(name: str) -> Run:
        return make_run(name, **fields, train__device="cuda", train__compile=compile)

    whole, parts, cpu = make("whole"), make("parts"), make_run("cpu", **fields)
    run_training(whole, tmp_path)
    run_training(cpu, tmp_path)
    while run_training(parts, tmp_path, commands=StopAfter(9)).status == "stopped":
        pass
    assert losses(whole) == pytest.approx(losses(cpu), rel=1e-3)
    assert_same_end(whole, parts)
