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
from tests.draining import result_of

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
    assert calls == [1, 2, 1, 2, 1, 2, 1, 2]  # in turns


def test_a_slow_step_has_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.device.TURNS_SECONDS", 0.0)
    calls: list[int] = []
    fastest_threads(lambda: calls.append(torch.get_num_threads()))
    assert calls == [1, 1, 2, 2, 1, 2]  # the first turn with a step that is not counted


@pytest.mark.parametrize(("seconds", "chosen"), [(0.95, 1), (0.85, 2)])
def test_a_number_of_threads_is_kept_unless_another_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, chosen: int
) -> None:
    monkeypatch.setattr("llm.device.time_call", lambda step: {1: 1.0, 2: seconds}[torch.get_num_threads()])
    assert fastest_threads(lambda: None, 1) == chosen
    assert fastest_threads(lambda: None) == 2


def watch_with(threads: int, pinned: int = 0) -> ThreadWatch:
    """A watch of a training on the CPU with `threads` threads, of which `pinned` are stated by the user."""
    config, plan = (
        SimpleNamespace(train=SimpleNamespace(threads=pinned)),
        SimpleNamespace(device="cpu", threads=threads),
    )
    context = SimpleNamespace(
        config=config, plan=plan, ranks=Ranks(), state=SimpleNamespace(step=9), event=lambda kind, **values: values
    )
    context.change_plan = lambda threads: setattr(plan, "threads", threads)
    return ThreadWatch(cast(Any, context), cast(Any, None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, and the seconds for which processors have been idle, both advanced by `clock.sleep`."""
    clock = SimpleNamespace(now=100.0, idle=0.0, idle_cores=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.idle += seconds * clock.idle_cores

    clock.sleep = sleep
    monkeypatch.setattr("llm.training.threads.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("llm.training.threads.idle_core_seconds", lambda: clock.idle)
    monkeypatch.setattr("llm.training.threads.busy_processes", lambda: [])
    return clock


def train(watch: ThreadWatch, clock: SimpleNamespace, step_seconds: float, seconds: float) -> None:
    """Steps of `step_seconds` for `seconds`, or until the number of threads is to be measured."""
    end = clock.now + seconds
    while clock.now < end and not watch.is_due:
        clock.sleep(step_seconds)
        watch.add(step_seconds, ())


@pytest.mark.parametrize("seconds", [1.5, 0.7])
def test_a_change_counts_when_it_lasts(clock: SimpleNamespace, seconds: float) -> None:
    watch = watch_with(2)
    train(watch, clock, 1.0, 30.0)
    assert not watch.is_due
    for count in range(RECENT_STEPS):
        assert not watch.is_due or count >= RECENT_STEPS / 2
        train(watch, clock, seconds, seconds)
    assert watch.is_due
    pinned = watch_with(2, pinned=2)
    train(pinned, clock, 1.0, 30.0)
    train(pinned, clock, 1.9, 90.0)
    assert not pinned.is_due


def test_another_thread_is_tried_soon_after_a_busy_process_has_ended(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is no slower while another process is busy, so the time of its steps does not tell when that ends."""
    watch = watch_with(1)
    clock.idle_cores = 0.1
    train(watch, clock, 0.5, 300.0)
    assert not watch.is_due
    clock.idle_cores, ended = 0.95, clock.now
    train(watch, clock, 0.5, 300.0)
    assert watch.is_due and clock.now - ended <= 15
    monkeypatch.setattr("llm.training.threads.fastest_threads", lambda step, current: 2)
    assert result_of(watch.choose_again()) is True and watch.context.plan.threads == 2
    train(watch, clock, 0.5, 300.0)
    assert not watch.is_due  # no more threads can be used


def test_measurements_that_change_nothing_become_rare(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one thread is the fastest, other processors are always idle."""
    monkeypatch.setattr("llm.training.threads.fastest_threads", lambda step, current: current)
    watch, times = watch_with(1), []
    clock.idle_cores = 1.0
    while clock.now < 4000:
        train(watch, clock, 0.5, 4000.0)
        times.append(round(clock.now - 100))
        assert result_of(watch.choose_again()) is False
    assert times[:6] == pytest.approx([20, 60, 140, 300, 620, 1220], abs=4)


def test_long_steps_are_not_repeated_to_measure_them(clock: SimpleNamespace) -> None:
    watch = watch_with(2)
    train(watch, clock, 10.0, 300.0)
    train(watch, clock, 20.0, 900.0)
    assert watch.slowdown == 2.0 and not watch.is_due


def test_another_number_of_threads_is_kept_by_the_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: Any
) -> None:
    """It is an event and saved at once; measuring it changes nothing, and a resumed run keeps it."""
    monkeypatch.setattr("llm.training.threads.MIN_WAIT", 0.0)
    monkeypatch.setattr("llm.device.fastest_threads", lambda step: 2)
    monkeypatch.setattr("llm.training.threads.fastest_threads", lambda step, current: (step(), 1)[1])
    monkeypatch.setattr("llm.training.threads.busy_processes", lambda: [])
    monkeypatch.setattr(ThreadWatch, "slowdown", 2.0)
    run, events = make_run("watched", **AUTO), list[Event]()
    run_training(run, tmp_path, on_event=events.append)
    (at,) = [
        i for i, event in enumerate(events) if isinstance(event, Warned) and "continues with 1 thread" in event.message
    ]
    assert next(event for event in events[at:] if isinstance(event, Saved)).step == events[at].step == 1
    assert all(read_state(checkpoint)["plan"]["threads"] == 1 for checkpoint in run.checkpoints())
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
