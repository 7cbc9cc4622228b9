"""Saves on a thread of their own: training goes on, what is saved is one moment's state, and no failure is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import llm.training.checkpoint
import llm.training.saver
from llm.events import Event, Finished, Saved, StepLogged, Warned
from llm.files import STAGING
from llm.run import CheckpointInfo, Command, Run
from llm.run.checkpoints import verify
from llm.training.commands import CommandQueue
from llm.training.run import run_training
from llm.training.state import StateCopy

from .conftest import MakeRun
from .test_resume import assert_same_end

PATIENCE = 120.0


def train(run: Run, home: Path, **fields: object) -> list[Event]:
    events: list[Event] = []
    run_training(run, home, on_event=events.append, **fields)  # type: ignore[arg-type]
    return events


def same_files(one: CheckpointInfo, other: CheckpointInfo) -> bool:
    names = ("model.safetensors", "optimizer.safetensors")
    return all((one.path / name).read_bytes() == (other.path / name).read_bytes() for name in names)


def test_training_continues_while_a_save_is_written_and_the_save_is_of_its_step(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make_run("whole", train__steps="30"), make_run("slow", train__steps="30")
    train(whole, tmp_path)
    real, moved_on, busy, together = llm.training.saver.publish, threading.Event(), threading.Lock(), []

    def slow(where: Run, state: StateCopy, *events: threading.Event) -> CheckpointInfo:
        together.append(not busy.acquire(blocking=False))
        try:
            assert moved_on.wait(PATIENCE), "no step was taken while the save was being written"
            return real(where, state, *events)
        finally:
            busy.release()

    monkeypatch.setattr(llm.training.saver, "publish", slow)
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 12:
            moved_on.set()

    run_training(run, tmp_path, on_event=on_event)
    kinds = [(type(event), event.step) for event in events if isinstance(event, StepLogged | Saved)]
    assert kinds.index((Saved, 7)) > kinds.index((StepLogged, 12)), "training did not wait for the save"
    assert [step for kind, step in kinds if kind is Saved] == [7, 14, 21, 28, 30]
    assert not any(together), "never two saves at once"
    assert all(same_files(one, other) for one, other in zip(whole.checkpoints(), run.checkpoints(), strict=True))


def test_a_stop_waits_until_the_save_is_on_the_disk(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = llm.training.saver.publish

    def slow(where: Run, state: StateCopy, *events: threading.Event) -> CheckpointInfo:
        time.sleep(0.5)
        return real(where, state, *events)

    monkeypatch.setattr(llm.training.saver, "publish", slow)
    run, queue = make_run("stops", train__steps="100000"), CommandQueue()

    def stop(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 7:
            queue.inject(Command("stop", "s"))

    finished = run_training(run, tmp_path, commands=queue, on_event=stop)
    assert finished.status == "stopped" and run.checkpoint().step == finished.step
    verify(run.checkpoint())


def test_a_save_that_fails_is_reported_at_a_later_step_and_nothing_points_at_it(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("no-place")
    aside = tmp_path / "aside"
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Saved) and event.step == 7:  # somebody puts a file where the directory was
            run.checkpoint_directory.rename(aside)
            run.checkpoint_directory.write_text("in the way")
        if isinstance(event, Warned):
            run.checkpoint_directory.unlink()
            aside.rename(run.checkpoint_directory)

    run_training(run, tmp_path, on_event=on_event)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert warning.step == 14 and warning.message.startswith("not saved")
    assert [event.step for event in events if isinstance(event, Saved)] == [7, 21, 24]
    assert [info.step for info in run.checkpoints()] == [7, 21, 24]


def test_a_save_that_reads_back_wrong_is_not_published_and_nothing_is_pruned_for_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit turns between the disk and the read-back, in a run that keeps a single checkpoint."""
    real = llm.training.checkpoint.drop_from_page_cache

    def turn_a_bit(path: Path) -> None:
        real(path)
        if "step-00000014" in str(path) and path.name == "model.safetensors":
            data = bytearray(path.read_bytes())
            data[-5] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(llm.training.checkpoint, "drop_from_page_cache", turn_a_bit)
    run = make_run("lying-disk", checkpoint__keep="1", evaluate__every="0")
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Warned):
            assert [info.step for info in run.checkpoints()] == [7]
            verify(run.checkpoint())
            assert not list(run.checkpoint_directory.glob(f"{STAGING}*"))

    run_training(run, tmp_path, on_event=on_event)
    (warning,) = [event for event in seen if isinstance(event, Warned)]
    assert warning.step == 14 and "model.safetensors is damaged" in warning.message
    assert [info.step for info in run.checkpoints()] == [24]


def test_a_fault_of_ours_in_the_writer_is_not_swallowed(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> CheckpointInfo:
        raise ArithmeticError("a bug")

    monkeypatch.setattr(llm.training.saver, "publish", broken)
    run = make_run("buggy")
    with pytest.raises(ArithmeticError, match="a bug"):
        train(run, tmp_path)
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and last.status == "failed" and (run.path / "crash.txt").exists()


def test_an_interrupt_gives_up_the_save_under_way_and_leaves_nothing_of_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun = llm.training.checkpoint.write_tensors, threading.Event()

    def slow(path: Path, tensors: object, unwanted: threading.Event) -> str:
        begun.set()
        assert unwanted.wait(PATIENCE), "nobody said that the save is not wanted any more"
        return real(path, tensors, unwanted)  # type: ignore[arg-type]

    monkeypatch.setattr(llm.training.checkpoint, "write_tensors", slow)
    run = make_run("interrupted")

    def interrupt(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 9:
            assert begun.wait(PATIENCE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(run, tmp_path, on_event=interrupt)
    assert list(run.checkpoint_directory.iterdir()) == []
    assert run.holder() is None


def test_an_error_lets_the_save_under_way_end(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = llm.training.saver.publish, threading.Event()

    def slow(where: Run, state: StateCopy, *events: threading.Event) -> CheckpointInfo:
        assert failed.wait(PATIENCE)
        return real(where, state, *events)

    def breaks(*_: object, **__: object) -> None:
        failed.set()
        raise ArithmeticError("the step failed")

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 9:
            monkeypatch.setattr("llm.training.loop.take_step", breaks)

    monkeypatch.setattr(llm.training.saver, "publish", slow)
    run = make_run("fails")
    with pytest.raises(ArithmeticError, match="the step failed"):
        run_training(run, tmp_path, on_event=on_event)
    assert [info.step for info in run.checkpoints()] == [7]
    assert [event.step for event in run.events() if isinstance(event, Saved)] == [7]


def test_without_memory_for_a_copy_training_waits_and_saves_the_same(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make_run("whole"), make_run("short-of-memory")
    train(whole, tmp_path)

    def none_left(state: object) -> None:
        raise MemoryError

    monkeypatch.setattr(llm.training.saver, "HostMemory", none_left)
    events = train(run, tmp_path)
    assert_same_end(whole, run)
    assert all(same_files(one, other) for one, other in zip(whole.checkpoints(), run.checkpoints(), strict=True))
    assert any("no memory for a copy" in event.message for event in events if isinstance(event, Warned))


def test_a_save_right_after_a_step_that_was_not_finite(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step is not a number, and JSON knows no such thing."""
    from llm.model.transformer import Transformer

    original, calls = Transformer.loss, 0

    def loss(self: Transformer, tokens: object, targets: object, reduction: str = "mean", **more: object) -> object:
        nonlocal calls
        calls += reduction == "mean"
        value = original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]
        return value * float("nan") if reduction == "mean" and calls == 3 * 14 else value

    monkeypatch.setattr(Transformer, "loss", loss)
    run = make_run("unlucky")
    train(run, tmp_path)
    assert [info.step for info in run.checkpoints()] == [7, 14, 21, 24]
    assert 0 < run.checkpoint("14").metrics["loss"] < 10
