"""What only a real GPU can show: its kernels, its memory, compilation, NCCL. `make gpu` runs these tests.

`test_cuda_step.py` and `test_cuda_run.py` run the same code on a stand-in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.events import Started, StepLogged, Warned
from llm.generators import drain
from llm.run import Run
from llm.training.micro_batch import choose_micro_batch
from llm.training.preflight import preflight
from llm.training.run import run_training
from llm.training.state import HostMemory, copy_state
from tests.cuda_for_tests import needs_gpus
from workbench.commands.doctor import devices

from .conftest import MakeRun
from .ranks_for_tests import finish, torchrun
from .test_cuda_run import PLAIN, stage_run
from .test_cuda_step import OPTIMIZERS, make_context, trained
from .test_resume import StopAfter, assert_same_end, losses
from .test_sft import parent as parent

WIDE = {"n_layer": 2, "d_model": 256, "n_head": 4, "context": 256}


@contextmanager
def synchronizing_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """A context in which torch allocates at most `size` bytes of the GPU."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@needs_gpus()
@pytest.mark.parametrize("optim", OPTIMIZERS, ids=lambda optim: "-".join(map(str, optim.values())))
def test_a_step_does_not_synchronize_and_computes_what_the_cpu_computes(optim: dict[str, Any]) -> None:
    on_cpu, context = (make_context(device, optim=optim) for device in ("cpu", "cuda"))
    expected = [trained(on_cpu), trained(on_cpu)]
    found = [trained(context)]
    with synchronizing_is_an_error():
        found.append(trained(context))
    assert [one.loss for one in found] == pytest.approx([one.loss for one in expected], rel=1e-3)
    assert found[0].grad_norm == pytest.approx(expected[0].grad_norm, rel=1e-3)
    for name, weight in context.state.model.state_dict().items():
        atol = 1e-2 if optim["kind"] == "muon" else 1e-4  # a GPU orthogonalizes in bfloat16
        torch.testing.assert_close(weight.cpu(), on_cpu.state.model.state_dict()[name], rtol=1e-2, atol=atol)


@needs_gpus()
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_dropout_do_not_synchronize(precision: str) -> None:
    context = make_context("cuda", model={"dropout": 0.1}, train={"precision": precision, "on_spike": "skip"})
    trained(context)
    with synchronizing_is_an_error():
        result = trained(context)
    assert result.is_applied and result.loss == pytest.approx(math.log(50), rel=0.1)


@needs_gpus()
def test_a_save_copies_the_state_to_pinned_memory() -> None:
    context = make_context("cuda")
    trained(context)
    state, memory = context.state, HostMemory(context.state)
    copy = copy_state(state, memory)
    for name, weight in (state.model.state_dict() | state.optimizer.state_tensors()).items():
        kept = copy.weights[name] if name in copy.weights else copy.optimizer[name]
        assert kept.is_pinned() and torch.equal(kept, weight.cpu()), name


@needs_gpus()
def test_the_largest_micro_batch_that_fits_is_found_and_one_that_does_not_is_halved(
    make_run: MakeRun, tmp_path: Path
) -> None:
    context = make_context(
        "cuda", model=WIDE, train={"batch_size": 0, "accumulation": 1, "total_batch_tokens": 256 * 256}
    )
    free = torch.cuda.memory_allocated()
    with memory_limit(1 << 30):
        tried = list(choose_micro_batch(context))
    assert 1 < context.state.micro_batch < 256 and len(tried) > 1
    assert torch.cuda.memory_allocated() <= free + (1 << 20), "what did not fit is freed"
    del context
    wide = {f"model__{name}": str(value) for name, value in WIDE.items()}
    batch = {"train__batch_size": "256", "train__accumulation": "1", "train__steps": "2", "train__compile": "off"}
    run = make_run(
        "halved", **wide, **batch, train__device="cuda", data__order="random", data__validation_fraction="0.5"
    )
    with memory_limit(1 << 30):
        run_training(run, tmp_path)
    assert any(isinstance(event, Warned) and "instead of 256" in event.message for event in run.events())


@needs_gpus()
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


@needs_gpus()
def test_every_auto_of_a_run(make_run: MakeRun, tmp_path: Path) -> None:
    """Device, precision, compilation, threads; and the memory of the device in the log."""
    auto = {f"train__{name}": "auto" for name in ("device", "precision", "compile")}
    run = make_run("auto", **auto, train__threads="0")
    run_training(run, tmp_path)
    (started,) = (event for event in run.events() if isinstance(event, Started))
    assert (started.device, started.compiled, started.threads) == ("cuda", True, 1)
    assert not [event.message for event in run.events() if isinstance(event, Warned)]
    logged = [event for event in run.events() if isinstance(event, StepLogged)]
    assert logged[-1].memory_bytes == torch.cuda.max_memory_allocated() > 0
    assert logged[-1].loss < logged[0].loss


@needs_gpus()
def test_a_preflight_and_doctor_describe_the_gpu(make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run("measured", train__device="cuda").config()
    measured = drain(preflight(config, tmp_path, steps=2), lambda progress: None)
    assert measured.training_bytes == torch.cuda.max_memory_allocated() > 0
    findings = {finding.name: finding.about for finding in devices()}
    assert torch.cuda.get_device_name(0) in findings["cuda:0"]
    assert findings["device"].startswith("auto selects cuda")


@needs_gpus()
@pytest.mark.parametrize("stage", ["sft", "lora", "dpo", "grpo"])
def test_every_stage_trains_on_a_gpu(parent: Run, tmp_path: Path, stage: str) -> None:
    on_gpu, on_cpu = (stage_run(stage, tmp_path, device) for device in ("cuda", "cpu"))
    for run in (on_gpu, on_cpu):
        assert run_training(run, tmp_path).status == "finished"
    assert losses(on_gpu)[1] == pytest.approx(losses(on_cpu)[1], rel=1e-3, abs=1e-4)


@needs_gpus(2)
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_by_nccl(make_run: MakeRun, tmp_path: Path, sharding: str) -> None:
    fields = {"model__dropout": "0", "train__accumulation": "1", "train__total_batch_tokens": str(4 * 16)}
    fields |= {"train__device": "cuda", "optim__kind": "muon", "train__compile": "off"}
    one, two = make_run("one", **fields), make_run("two", **fields, train__sharding=sharding)
    run_training(one, tmp_path)
    process = torchrun(two, 2)
    assert finish(process) is not None and process.returncode == 0
    assert losses(two) == pytest.approx(losses(one), rel=1e-2)


@needs_gpus(2)
def test_the_second_gpu_gives_what_the_first_gives(make_run: MakeRun, tmp_path: Path) -> None:
    """`train.device = cuda:1`, while the current device of the thread is the first: losses, and what is saved."""
    runs = [make_run(device[-1], **PLAIN, train__device=device) for device in ("cuda:0", "cuda:1")]
    for run in runs:
        run_training(run, tmp_path)
    assert_same_end(*runs)
