"""Memory that the kernel really refuses: a trainer in a process of its own that may have no more."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.errors import UserError
from llm.events import Finished, Started, StepLogged, Warned
from llm.optim import Optimizer
from llm.run import Run
from llm.run.checkpoints import read_state, verify
from llm.training.run import run_training

from .conftest import MakeRun

PLAIN = {"sample__every": "0", "evaluate__every": "0", "evaluate__at_start": "false", "model__dropout": "0"}


def starved(run: Run, step: int, megabytes: int) -> subprocess.CompletedProcess[str]:
    # One arena, and every large block given back when it is freed: what is held is then what is used.
    settings = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.starved", str(run.path), str(step), str(megabytes)]
    return subprocess.run(
        command,
        env=os.environ | settings,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_micro_batch_that_the_kernel_refuses_is_halved_until_it_fits(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        "wide",
        **PLAIN,
        model__n_layer="4",
        model__d_model="64",
        model__context="128",
        train__batch_size="64",
        train__accumulation="1",
        train__steps="2",
        checkpoint__every="1",
        data__order="random",
        data__validation_fraction="0.5",
    )
    done = starved(run, 0, 160)
    assert done.returncode == 0, done.stderr
    events = list(run.events())
    halved = [event.message for event in events if isinstance(event, Warned)]
    assert halved and halved[0].startswith("out of memory: from now on 2 micro-batches of 32 sequences instead of 64")
    assert {event.tokens_seen / event.step for event in events if isinstance(event, StepLogged)} == {64 * 128}
    assert isinstance(events[-1], Finished) and events[-1].step == 2
    for info in run.checkpoints():
        verify(info)


@pytest.mark.slow
def test_the_largest_micro_batch_that_the_kernel_grants_is_chosen(make_run: MakeRun, tmp_path: Path) -> None:
    """The estimate allows all 64 sequences at once, and the kernel does not."""
    run = make_run(
        "chosen",
        **PLAIN,
        model__n_layer="4",
        model__d_model="64",
        model__context="128",
        train__batch_size="0",
        train__total_batch_tokens=str(64 * 128),
        train__steps="2",
        data__validation_fraction="0.5",
    )
    done = starved(run, 0, 160)
    assert done.returncode == 0, done.stderr
    events = list(run.events())
    (started,) = (event for event in events if isinstance(event, Started))
    assert 1 < started.micro_batch < 64
    assert not any(isinstance(event, Warned) and "out of memory" in event.message for event in events)
    assert read_state(run.checkpoint())["micro_batch"] == started.micro_batch


@pytest.mark.slow
def test_memory_that_ends_in_the_update_is_a_sentence_and_the_checkpoint_is_intact(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """The written-out AdamW takes several times a matrix for a moment, more than forward and backward together here."""
    run = make_run(
        "greedy-update",
        **PLAIN,
        model__d_model="256",
        model__d_ff="16384",
        model__mlp="gelu",
        optim__fused="off",
        train__accumulation="1",
        train__steps="4",
        checkpoint__every="2",
    )
    done = starved(run, 3, 60)
    assert done.returncode == 1
    assert "the memory ran out" in done.stderr and "lower train.batch_size" in done.stderr
    assert "Traceback" not in done.stderr
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and (last.status, last.step) == ("failed", 3)
    assert run.checkpoint().step == 2 and not (run.path / "crash.txt").exists()
    assert run_training(run, tmp_path).status == "finished"
    started = [event for event in run.events() if isinstance(event, Started)][-1]
    assert started.step == 2


def test_memory_that_torch_says_has_ended_in_the_update_is_the_same_sentence(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Optimizer.step, itertools.count(1)

    def step_with_little_memory(optimizer: Optimizer, *arguments: Any, **options: Any) -> None:
        if next(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        step(optimizer, *arguments, **options)

    run = make_run("greedy-update", **PLAIN, train__steps="4", checkpoint__every="2")
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", step_with_little_memory)
        with pytest.raises(UserError, match=r"the memory ran out; .*lower train\.batch_size"):
            run_training(run, tmp_path)
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and (last.status, last.step) == ("failed", 3)
    assert run.checkpoint().step == 2 and not (run.path / "crash.txt").exists()
    assert run_training(run, tmp_path).status == "finished"


HOLE = """
import sys
import psutil
from llm.environment import configure_malloc

if sys.argv[1] == "settled":
    configure_malloc()
process, size = psutil.Process(), 20 << 20
bytearray(size)  # by what is freed first glibc decides what it keeps from then on
before = process.memory_info().rss
large = bytearray(b"x" * 1024) * (size // 1024)
beyond = [bytearray(100_000) for _ in range(5)]
del large
print(process.memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc's allocator")
def test_large_tensors_leave_no_holes() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def left(how: str) -> int:
        command = [sys.executable, "-c", HOLE, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    assert left("as it is") > 15e6, "else there is nothing to mend any more"
    assert left("settled") < 5e6


HOLES = """
import psutil
from llm.environment import configure_malloc, return_free_memory

configure_malloc()
process = psutil.Process()
small = [bytearray(b"x" * 100_000) for _ in range(1000)]
kept = small[::10]
del small
before = process.memory_info().rss
return_free_memory()
print(before - process.memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc's allocator")
def test_memory_between_allocations_is_returned() -> None:
    found = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 60e6  # of 90 MB that were freed
