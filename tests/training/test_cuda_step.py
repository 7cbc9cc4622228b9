"""A training step and its surroundings on a GPU: nothing waits but what must, and every copy goes to its own device.

Without a GPU on a stand-in (`tests/cuda_for_tests.py`), which runs the same code; with one, on it (`-m cuda`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from llm.config import from_mapping
from llm.device import make_plan
from llm.errors import UserError
from llm.limits import Memory
from llm.training import micro_batch
from llm.training.batch_plan import resolve_batch_plan
from llm.training.context import StepContext
from llm.training.length import random_batch, time_step
from llm.training.micro_batch import choose_micro_batch
from llm.training.objective import build_objective
from llm.training.setup import build_loss_fn, new_state
from llm.training.state import HostMemory, copy_state
from llm.training.step import OutOfMemory, StepResult, is_out_of_memory, seed_generators, take_step, to_device
from tests.cuda_for_tests import Gpu

VOCAB = 50
OPTIMIZERS: list[dict[str, Any]] = [
    {"kind": kind, "fused": fused} for kind in ("adamw", "sgd", "muon") for fused in ("on", "off")
] + [{"kind": "adamw", "fused": "off", "eps_inside": True, "decay_after": True}]


def make_context(device: str, **tables: Any) -> StepContext:
    """What a step needs, with the state on `device`, chosen and built as for a run."""
    shape = {"n_layer": 2, "d_model": 16, "n_head": 2, "context": 8}
    train = {"batch_size": 2, "accumulation": 3, "device": device, "precision": "fp32", "steps": 5, "threads": 1}
    config = from_mapping(tables | {"model": shape | tables.get("model", {}), "train": train | tables.get("train", {})})
    state = new_state(config, VOCAB)
    state.model.train()
    return StepContext(config, state, make_plan(config.train), resolve_batch_plan(config, VOCAB, 0))


def trained(context: StepContext) -> StepResult:
    result = take_step(context, random_batch(context), build_objective(context.state.model, context.config).loss_fn)
    assert isinstance(result, StepResult)
    return result


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=lambda optim: "-".join(map(str, optim.values())))
def test_a_step_waits_for_nothing_and_computes_what_the_cpu_computes(gpu: Gpu, optim: dict[str, Any]) -> None:
    on_cpu = make_context("cpu", optim=optim)
    expected, context = trained(on_cpu), make_context("cuda:1", optim=optim)
    gpu.waits.clear()
    result = trained(context)
    assert gpu.waits == []
    assert gpu.calls["copy from pinned memory"] == 2 * 3, "inputs and targets of each micro-batch"
    assert (gpu.calls["copy to pinned memory"], gpu.calls["record"]) == (1, 1), "all measurements in one copy"
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert gpu.waits[0] == "event", "only reading the measurements waits"
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4) and result.is_applied
    for name, weight in context.state.model.state_dict().items():
        assert weight.is_cuda
        atol = 1e-3 if optim["kind"] == "muon" else 1e-5  # a GPU orthogonalizes in bfloat16
        torch.testing.assert_close(weight.cpu(), on_cpu.state.model.state_dict()[name], rtol=1e-3, atol=atol)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_dropout_and_a_spike_limit_do_not_wait_either(gpu: Gpu, precision: str) -> None:
    context = make_context("cuda", model={"dropout": 0.1}, train={"precision": precision, "on_spike": "skip"})
    context.state.loss_scale = 8.0
    gpu.waits.clear()
    result = trained(context)
    assert gpu.waits == []
    assert gpu.calls[f"autocast {torch.bfloat16 if precision == 'bf16' else torch.float16}"] == 3
    assert result.loss == pytest.approx(math.log(VOCAB), rel=0.1)


def test_a_batch_is_contiguous_on_the_device(gpu: Gpu) -> None:
    tokens = to_device(np.arange(32).reshape(4, 8)[:, ::2], "cuda:1")
    assert tokens.device == torch.device("cuda:1") and tokens.is_contiguous()
    assert tokens.tolist() == np.arange(32).reshape(4, 8)[:, ::2].tolist()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_save_waits_once_and_its_copy_is_complete(gpu: Gpu, device: str) -> None:
    context = make_context(device)
    trained(context)
    state, memory = context.state, HostMemory(context.state)
    gpu.waits.clear()
    before = gpu.calls["copy to pinned memory"]
    copy = copy_state(state, memory)
    assert gpu.waits == [f"stream of {torch.device('cuda', gpu.index(device))}"]
    assert gpu.calls["copy to pinned memory"] - before == len(copy.weights) + len(copy.optimizer)
    for name, weight in state.model.state_dict().items():
        assert torch.equal(copy.weights[name], weight.cpu()), name
    for name, value in state.optimizer.state_tensors().items():
        assert torch.equal(copy.optimizer[name], value.cpu()), name


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_measured_step_ends_when_its_device_is_done(gpu: Gpu, device: str) -> None:
    context = make_context(device)
    gpu.waits.clear()
    time_step(context, random_batch(context), context.state.model.loss)
    assert gpu.waits == [f"stream of {torch.device('cuda', gpu.index(device))}"]


def test_the_free_memory_of_the_gpu_limits_the_first_candidate(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context("cuda", train={"batch_size": 0, "accumulation": 1, "total_batch_tokens": 64 * 8})
    monkeypatch.setattr(micro_batch, "memory", lambda: Memory(1, 1))  # that of the host does not matter
    for free, most in ((10**9, 64), (10, 1)):
        gpu.capacity = gpu.allocated + free
        available = micro_batch.available_bytes(context)
        assert available == micro_batch.GPU_SHARE * free
        assert micro_batch.candidates(context, 64, available)[0] == most


def test_a_micro_batch_that_does_not_fit_leaves_no_memory_behind(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context("cuda", train={"batch_size": 0, "accumulation": 1, "total_batch_tokens": 64 * 8})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))  # the estimate is too small
    before = gpu.allocated
    gpu.capacity = before + 600_000
    tried = list(choose_micro_batch(context))
    assert 1 < context.state.micro_batch < 64 and len(tried) > 1
    assert gpu.calls["empty cache"] == len(tried) - 1
    assert gpu.allocated == before
    gpu.capacity = before
    context.state.micro_batch = 0
    with pytest.raises(UserError, match="one sequence of 8 tokens does not fit in memory"):
        list(choose_micro_batch(context))


def test_a_step_that_runs_out_of_memory_changes_nothing(gpu: Gpu) -> None:
    context = make_context("cuda")
    loss_fn = build_objective(context.state.model, context.config).loss_fn
    before = gpu.allocated
    gpu.capacity = before + 1000
    assert isinstance(take_step(context, random_batch(context), loss_fn), OutOfMemory)
    assert (context.state.step, gpu.allocated) == (0, before)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_which_errors_of_cuda_are_for_want_of_memory(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is expected


def test_on_a_gpu_training_is_compiled_unless_that_fails(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context("cuda:1", train={"precision": "auto"})
    assert (context.plan.compiled, context.plan.precision) == (True, "bf16")
    assert not make_plan(from_mapping({"train": {"device": "cuda", "compile": "off"}}).train).compiled
    objective, probes = build_objective(context.state.model, context.config), []

    def compile(loss_fn: Any, dynamic: bool) -> Any:
        assert not dynamic
        return lambda *arrays: probes.append(arrays[0].device) or loss_fn(*arrays)

    monkeypatch.setattr(torch, "compile", compile)
    loss_fn, warning = build_loss_fn(context.state, context.plan, (2, 8), objective)
    assert (warning, probes) == ("", [torch.device("cuda:1")])
    assert loss_fn is not objective.loss_fn
    assert all(weight.grad is None for weight in context.state.model.parameters())

    def fail(loss_fn: Any, dynamic: bool) -> Any:
        raise ImportError("Triton is not installed\nby whom?")

    monkeypatch.setattr(torch, "compile", fail)
    assert build_loss_fn(context.state, context.plan, (2, 8), objective) == (
        objective.loss_fn,
        "torch.compile failed, training continues without it: Triton is not installed",
    )


def test_on_a_cpu_a_seed_gives_the_numbers_of_manual_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**62 + 5)
        expected = torch.rand(3)
        seed_generators(2**62 + 5, "cpu")
        assert torch.equal(torch.rand(3), expected)
