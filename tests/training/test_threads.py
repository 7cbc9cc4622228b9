"""The number of threads: chosen by a measurement, and again where the speed changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from llm.device import fastest_threads
from llm.events import Event, Saved, Started, Warned
from llm.load import busy_processes
from llm.run.checkpoints import read_state
from llm.training.distributed import Ranks
from llm.training.run import run_training
from llm.training.threads import RECENT_STEPS, ThreadWatch

from .conftest import MakeRun
from .test_resume import StopAfter, assert_same_end

AUTO = {"train.threads": "0", "model.dropout": "0"}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two cores, whatever the machine has; the threads of the test's process are restored."""
    for module in ("llm.device", "llm.training.threads", "llm.training.setup"):
        monkeypatch.setattr(f"{module}.usable_cores", lambda: 2)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_busy_moment_does_not_mislead_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are faster, but another process slows the first calls of both."""
    calls: list[int] = []

    def time_call(step: object) -> float:
        calls.append(torch.get_num_threads())
        return {1: 2.0, 2: 1.0}[calls[-1]] * (9 if len(calls) < 4 else 1)

    monkeypatch.setattr("llm.device.time_call", time_call)
    assert fastest_threads(lambda: None) == 2
    assert calls[:4] == [1, 2, 1, 2]  # in turns


@pytest.mark.parametrize("seconds", [1.5, 0.7])
def test_a_change_counts_when_it_lasts(seconds: float) -> None:
    config, plan = SimpleNamespace(train=SimpleNamespace(threads=0)), SimpleNamespace(device="cpu")
    context = cast(Any, SimpleNamespace(config=config, plan=plan, ranks=Ranks()))
    watch = ThreadWatch(context, cast(Any, None))
    for _ in range(RECENT_STEPS):
        watch.add(1.0, ())
    for count in range(RECENT_STEPS):
        assert watch.slowdown == 1.0 or count >= RECENT_STEPS / 2
        watch.add(seconds, ())
    assert watch.slowdown == seconds
    context.config.train.threads = 2  # stated by the user
    pinned = ThreadWatch(context, cast(Any, None))
    for duration in [1.0] * RECENT_STEPS + [9.0] * RECENT_STEPS:
        pinned.add(duration, ())
    assert pinned.slowdown == 1.0


def test_another_number_of_threads_is_kept_by_the_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: Any
) -> None:
    """It takes effect before the save and is an event; measuring it changes nothing, and a resumed run keeps it."""
    monkeypatch.setattr("llm.device.fastest_threads", lambda step: 2)
    monkeypatch.setattr("llm.training.threads.fastest_threads", lambda step: (step(), 1)[1])
    monkeypatch.setattr("llm.training.threads.busy_processes", lambda: [])
    monkeypatch.setattr(ThreadWatch, "slowdown", 2.0)
    run, events = make_run("watched", **AUTO), list[Event]()
    run_training(run, tmp_path, on_event=events.append)
    (at,) = [
        i for i, event in enumerate(events) if isinstance(event, Warned) and "continues with 1 thread" in event.message
    ]
    assert next(event for event in events[at:] if isinstance(event, Saved)).step == 7
    assert read_state(run.checkpoints()[0])["plan"]["threads"] == 1
    again = make_run("again", **AUTO)
    while run_training(again, tmp_path, commands=StopAfter(40), on_event=events.append).status == "stopped":
        pass
    assert [event.threads for event in events if isinstance(event, Started)][-1] == 1
    assert_same_end(run, again)


def test_a_busy_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.load.MIN_CORES", 0.01)  # the tests' machine may have little left for it
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert any(one.pid == spinning.pid and "python" in one.name and one.cores > 0 for one in busy_processes(1.0))
    finally:
        spinning.kill()
        spinning.wait()
