"""Whole runs on a stand-in for a GPU (`tests/cuda_for_tests.py`); `test_on_a_gpu.py` has those on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm.device import PEAK_FLOPS
from llm.errors import WrongUse
from llm.events import Event, Started, StepLogged, Warned
from llm.generators import drain
from llm.run import Run
from llm.training import distributed
from llm.training.distributed import Ranks, join_ranks
from llm.training.live import LiveWeights
from llm.training.preflight import preflight
from llm.training.run import run_training
from llm.training.spikes import LAG
from tests.cuda_for_tests import Gpu

from .conftest import MakeRun
from .test_cuda_step import make_context
from .test_dpo import dpo
from .test_grpo import grpo
from .test_resume import StopAfter, assert_same_end, losses
from .test_sft import base_home as base_home
from .test_sft import parent as parent
from .test_sft import sft, write_conversations

PLAIN = {"model__dropout": "0", "train__compile": "off", "train__steps": "10", "train__accumulation": "1"}
QUIET = {"evaluate__every": "0", "evaluate__batches": "1", "sample__every": "0", "checkpoint__every": "1000"}


def test_a_run_has_the_losses_of_the_cpu_and_resumes_bit_for_bit(gpu: Gpu, make_run: MakeRun, tmp_path: Path) -> None:
    """With everything between the steps: evaluations, samples, saves."""
    whole, parts = (make_run(name, **PLAIN, train__device="cuda:1") for name in ("whole", "parts"))
    cpu, events = make_run("cpu", **PLAIN), list[Event]()
    run_training(cpu, tmp_path)
    gpu.calls.clear()
    run_training(whole, tmp_path, on_event=events.append)
    steps = [event for event in events if isinstance(event, StepLogged)]
    assert gpu.calls["record"] == len(steps) == 10
    assert losses(whole) == pytest.approx(losses(cpu), rel=1e-4)
    assert whole.checkpoint().metrics == pytest.approx(cpu.checkpoint().metrics, rel=1e-4)
    assert {event.memory_bytes for event in steps[-3:]} == {gpu.peak}, "the peak of the device's memory, not the host's"
    share = steps[-1].tokens_per_second * steps[-1].total_flops / steps[-1].tokens_seen / PEAK_FLOPS["H200"]
    assert steps[-1].mfu == pytest.approx(share, rel=1e-6)
    while run_training(parts, tmp_path, commands=StopAfter(9)).status == "stopped":
        pass
    assert_same_end(whole, parts)


def test_the_loss_of_a_step_is_read_two_steps_later(gpu: Gpu, make_run: MakeRun, tmp_path: Path) -> None:
    late, live = list[int](), list[LiveWeights]()

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged):
            late.append(live[0].step - event.step)

    run = make_run("late", **PLAIN, **QUIET, train__device="cuda")
    run_training(run, tmp_path, on_event=on_event, on_live=live.append)
    assert late == [LAG] * 8 + [1, 0], "the last two when training ends"


def test_a_micro_batch_that_runs_out_of_memory_is_halved(gpu: Gpu, make_run: MakeRun, tmp_path: Path) -> None:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 4:
            gpu.capacity = gpu.allocated + 40_000
        elif isinstance(event, Warned):
            gpu.capacity = 10**12

    run = make_run("halved", **PLAIN, **QUIET, train__device="cuda", train__batch_size="8")
    assert run_training(run, tmp_path, on_event=on_event).status == "finished"
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert warning.startswith("out of memory: from now on 2 micro-batches of 4 sequences instead of 8")
    assert gpu.calls["empty cache"] == 1
    assert {event.tokens_seen / event.step for event in events if isinstance(event, StepLogged)} == {8 * 16}


def test_the_device_and_its_precision_are_found_and_kept(gpu: Gpu, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("found", train__device="auto", train__precision="auto", **PLAIN, **QUIET, train__threads="0")
    run_training(run, tmp_path)
    (started,) = (event for event in run.events() if isinstance(event, Started))
    assert (started.device, started.precision, started.threads) == ("cuda", "bf16", 1)
    assert gpu.calls[f"autocast {torch.bfloat16}"] > 10


def stage_run(stage: str, home: Path, device: str) -> Run:
    """A run of a stage of fine-tuning from the run `base`."""
    fields = {"train__device": device, "train__steps": "4", "train__compile": "off"}
    if stage == "dpo":
        return dpo(home, **fields)
    if stage == "grpo":
        return grpo(home, "base", **fields, data__corpus="dialogues", tune__task="format", model__context="160")
    rank = {"tune__lora_rank": "3"} if stage == "lora" else {}
    return sft(home, write_conversations(home / "talk.jsonl"), **fields, **rank, train__epochs="0")


@pytest.mark.parametrize("stage", ["sft", "lora", "dpo", pytest.param("grpo", marks=pytest.mark.slow)])
def test_every_stage_trains_on_a_gpu(gpu: Gpu, parent: Run, tmp_path: Path, stage: str) -> None:
    on_gpu, on_cpu = (stage_run(stage, tmp_path, device) for device in ("cuda:1", "cpu"))
    for run in (on_gpu, on_cpu):
        assert run_training(run, tmp_path).status == "finished"
    assert gpu.calls["record"] == 4
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:9"])
def test_a_gpu_that_is_not_there_is_an_error(gpu: Gpu, make_run: MakeRun, tmp_path: Path, device: str) -> None:
    with pytest.raises(WrongUse, match=f"the device {device} is not available on this machine"):
        run_training(make_run("none", train__device=device), tmp_path)


def test_a_preflight_reports_the_memory_of_the_device(gpu: Gpu, make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run("measured", **PLAIN, train__device="cuda:1").config()
    measured = drain(preflight(config, tmp_path, steps=2), lambda progress: None)
    assert (measured.device, measured.steps) == ("cuda:1", 2)
    assert measured.training_bytes == gpu.peak > 0


def test_each_rank_joins_with_nccl_on_its_own_gpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks on a machine with two GPUs; torch's collectives are replaced, since NCCL needs real ones."""
    done: list[Any] = []
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(distributed, "rendezvous", lambda url, timeout: iter([(torch.distributed.HashStore(), 1, 2)]))
    monkeypatch.setattr(distributed, "wait_for_ranks", lambda *arguments: None)
    monkeypatch.setattr(distributed, "gather_peers", lambda control: [])

    def join(backend: str, **options: Any) -> None:
        done.append((backend, gpu.current, options["rank"], options["world_size"]))

    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, timeout: done.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("left"))
    with join_ranks("auto") as ranks:
        assert (ranks.rank, ranks.world_size) == (1, 2)
    assert done == [("nccl", 1, 1, 2), "gloo", "left"]


@pytest.mark.parametrize(("device", "ids"), [("cuda", [1]), ("cpu", None)])
def test_ddp_is_given_the_gpu_of_the_rank(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, device: str, ids: list[int] | None
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda module, device_ids: given.append(device_ids))
    torch.cuda.set_device(1)
    model = make_context(device).state.model
    Ranks(rank=1, world_size=2).wrap(model, model.loss)
    assert given == [ids]
