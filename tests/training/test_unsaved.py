"""The end of a training that cannot be saved is told as what it is, and nothing that is saved is lost for it."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.events import CommandRefused, Event, Finished, Paused, Saved, Started, StepLogged, Warned
from llm.run import Command, Run
from llm.train import main
from llm.training.commands import CommandQueue
from llm.training.run import run_training
from tests.forking import NOTHING, ForkedProgram, run_trainer

from .conftest import MakeRun

PLAIN = {"sample__every": "0", "evaluate__every": "0", "train__steps": "10", "checkpoint__every": "5"}


def bind(disk: Path, place: Path) -> None:
    """Show `disk` at `place`, where a link would be refused; gone when `disk` is unmounted."""
    place.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(place)], check=True)


def without_room(run: Run, disk: Path) -> Path:
    """Lay the checkpoints of `run` on `disk` and fill it; the file that fills it, which makes room when it is gone."""
    bind(disk, run.checkpoint_directory)
    ballast = disk / "ballast"
    fill(ballast)
    return ballast


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError as error:
            assert "No space left" in str(error)


def end(run: Run) -> Finished:
    last = list(run.events())[-1]
    assert isinstance(last, Finished)
    return last


def test_a_last_save_that_fails_is_no_finish_and_resume_trains_what_is_missing(
    make_run: MakeRun, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("full", **PLAIN)
    bind(small_disk, run.checkpoint_directory)
    ballast = small_disk / "ballast"

    def on_event(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 5:
            fill(ballast)

    words = r"step 10 of full could not be saved \(No space left on device\), and its newest checkpoint is step 5; "
    with pytest.raises(UserError, match=words + r"correct that, then llm-workbench resume full trains"):
        run_training(run, tmp_path, on_event=on_event)
    assert (end(run).status, end(run).step) == ("failed", 10) and run.status().name == "failed"
    assert main([str(run.path)]) == 1, "the disk is still full"
    assert "could not be saved" in capsys.readouterr().err
    ballast.unlink()
    assert main([str(run.path)]) == 0
    assert end(run).status == "finished" and run.checkpoint().step == 10
    assert [event.step for event in run.events() if isinstance(event, Started)] == [0, 5, 5]


def test_without_a_single_save_a_run_has_not_finished(make_run: MakeRun, tmp_path: Path, small_disk: Path) -> None:
    run = make_run("never", **PLAIN | {"checkpoint__every": "1", "checkpoint__keep": "0"})
    without_room(run, small_disk)
    with pytest.raises(UserError, match="it has no checkpoint"):
        run_training(run, tmp_path)
    assert sum("not saved" in event.message for event in run.events() if isinstance(event, Warned)) == 10
    assert end(run).status == "failed"


def test_a_stop_that_must_save_is_refused_and_training_continues(
    make_run: MakeRun, tmp_path: Path, small_disk: Path
) -> None:
    run, queue = make_run("kept", **PLAIN | {"train__steps": "40", "checkpoint__every": "0"}), CommandQueue()
    ballast = without_room(run, small_disk)
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StepLogged) and event.step in (10, 20):
            queue.inject(Command("stop", f"at {event.step}", {"must_save": True}))
        if isinstance(event, CommandRefused):
            ballast.unlink()

    finished = run_training(run, tmp_path, commands=queue, on_event=on_event)
    (refused,) = [event for event in seen if isinstance(event, CommandRefused)]
    assert (refused.step, refused.command, refused.command_id) == (10, "stop", "at 10")
    assert refused.reason == "step 10 could not be saved (No space left on device); training continues"
    assert (finished.status, finished.step, finished.command_id) == ("stopped", 20, "at 20")
    assert run.checkpoint().step == 20


def test_a_refused_stop_in_a_pause_leaves_the_run_paused(make_run: MakeRun, tmp_path: Path, small_disk: Path) -> None:
    run, queue = make_run("paused", **PLAIN | {"checkpoint__every": "0"}), CommandQueue()
    ballast = without_room(run, small_disk)
    pauses: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 4:
            queue.inject(Command("pause", "p"))
            queue.inject(Command("stop", "s", {"must_save": True}))
        if isinstance(event, Paused):
            pauses.append(event.step)
            if len(pauses) == 2:
                ballast.unlink()
                queue.inject(Command("resume", "r"))

    assert run_training(run, tmp_path, commands=queue, on_event=on_event).status == "finished"
    assert pauses == [4, 4]


def test_a_stop_without_saving_needs_no_room(make_run: MakeRun, tmp_path: Path, small_disk: Path) -> None:
    run, queue = make_run("discarded", **PLAIN | {"checkpoint__every": "0"}), CommandQueue()
    without_room(run, small_disk)

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 4:
            queue.inject(Command("stop", "s", {"save": False}))

    finished = run_training(run, tmp_path, commands=queue, on_event=on_event)
    assert (finished.status, finished.step) == ("stopped", 4)


def test_sigterm_where_nothing_can_be_saved_ends_with_1(make_run: MakeRun, small_disk: Path) -> None:
    run = make_run("terminated", **PLAIN | {"train__steps": "1000000", "checkpoint__every": "0"})
    without_room(run, small_disk)
    errors = run.path.with_name("errors.txt")
    process = ForkedProgram(run_trainer, str(run.path), streams=(NOTHING, NOTHING, errors))
    tail = run.tail()
    while not any(isinstance(event, StepLogged) and event.step > 3 for event in tail.poll()):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"step \d+ of terminated could not be saved .* it has no checkpoint", said)
    assert end(run).status == "failed"
