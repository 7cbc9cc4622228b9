"""Starting, steering and stopping, with a trainer that follows a script."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import workbench.train.service
from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from llm.events import Finished
from llm.launch import HEADING, LOG
from llm.run import Run
from tests.workbench.scripted import ScriptedTrainer, prepared_trainer, scripted_run
from workbench.train.service import TrainingService


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.005)


def test_a_run_trains_in_a_daemon_thread_until_it_is_stopped(home: Path) -> None:
    trainer = ScriptedTrainer(steps=7)
    service = TrainingService(home, trainer=trainer)
    run = service.start(RunConfig(), "quick")
    assert run.name == "quick-1"
    assert service.active == "quick-1"
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("train "))
    assert not service.has_work_to_save
    trainer.prepared.set()
    wait_for(lambda: service.live_model("quick-1"))
    assert service.has_work_to_save
    assert service.shutdown()
    assert trainer.obeyed == ["stop"]
    assert isinstance(list(run.events())[-1], Finished)
    wait_for(lambda: service.active is None)
    assert service.live_model("quick-1") is None


def test_a_stop_asked_for_while_preparing_is_not_lost(home: Path) -> None:
    trainer = ScriptedTrainer()
    service = TrainingService(home, trainer=trainer)
    service.start(RunConfig(), "quick")
    service.request_stop()
    trainer.prepared.set()
    wait_for(lambda: service.active is None)
    assert trainer.obeyed == ["stop"]


def test_a_run_that_is_being_prepared_when_the_program_ends_is_stopped_and_not_crashed(home: Path) -> None:
    trainer = ScriptedTrainer()
    service = TrainingService(home, trainer=trainer)
    run = service.start(RunConfig(), "quick")
    threading.Timer(0.2, trainer.prepared.set).start()  # a preparation looks at its commands about that often
    assert service.shutdown()
    assert service.active is None and run.status().name == "stopped"


def test_a_preparation_that_does_not_end_in_time_is_logged_as_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench.train.service, "PREPARATION_SECONDS", 0.1)
    trainer = ScriptedTrainer()
    service = TrainingService(home, trainer=trainer)
    run = service.start(RunConfig(), "quick")
    wait_for(lambda: list(run.events()))
    assert service.shutdown()
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and (last.status, last.step) == ("stopped", 0)
    trainer.prepared.set()
    wait_for(lambda: service.active is None)


def test_commands_reach_the_thread_and_other_processes_alike(home: Path) -> None:
    trainer = prepared_trainer()
    service = TrainingService(home, trainer=trainer)
    service.start(RunConfig(), "quick")
    first = service.send("quick-1", "pause")
    wait_for(lambda: trainer.obeyed == ["pause"])
    other = scripted_run(home, "other-1", 3)
    tail = other.commands()
    second = service.send("other-1", "set", key="train.clip", value="0.5")
    (command,) = tail.poll()
    assert (command.name, command.id) == ("set", second)
    assert command.arguments == {"key": "train.clip", "value": "0.5"}
    assert first != second
    service.shutdown()


def test_a_run_in_training_elsewhere_is_refused_with_its_holder(home: Path) -> None:
    run = scripted_run(home, "other-1", 3)
    with run.lock(), pytest.raises(UserError, match="already in training"):
        TrainingService(home, trainer=ScriptedTrainer()).begin(run)


def test_what_ends_a_training_is_reported(home: Path) -> None:
    ends: list[tuple[str, str]] = []
    trainer = ScriptedTrainer()
    trainer.problem = "the corpus is empty; give more text."
    service = TrainingService(home, trainer=trainer)
    service.on_end = lambda name, problem: ends.append((name, problem))
    service.start(RunConfig(), "quick")
    wait_for(lambda: ends)
    assert ends == [("quick-1", "the corpus is empty; give more text.")]


def test_an_unforeseen_error_is_reported_and_logged(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends: list[str] = []

    def broken(run: Run, home: Path, **_arguments: object) -> object:
        raise ZeroDivisionError("deep inside")

    service = TrainingService(home, trainer=broken)
    service.on_end = lambda name, problem: ends.append(problem)
    service.start(RunConfig(), "quick")
    wait_for(lambda: ends)
    assert "ZeroDivisionError: deep inside" in ends[0]
    assert "Traceback" in capfd.readouterr().err


def test_what_a_process_is_refused_is_reported(home: Path, tmp_path: Path) -> None:
    """A refused resume writes nothing into the log, where the screens would read it."""
    from llm.training.run import run_training
    from tests.conftest import tiny_config, write_corpus

    corpus = write_corpus(tmp_path)
    run = Run.create(home, "tiny-1", tiny_config(corpus))
    run_training(run, home)
    corpus.write_text(corpus.read_text() + "≠")
    ends: list[tuple[str, str]] = []
    service = TrainingService(home)
    service.on_end = lambda name, problem: ends.append((name, problem))
    service.begin_process(run, (("train.steps", "40"),))
    wait_for(lambda: ends, 120)
    ((name, problem),) = ends
    assert name == "tiny-1" and problem.startswith("the text of tiny-1 has changed since it was trained")
    assert run.status().name == "finished"


def test_the_real_trainer_in_the_thread(home: Path, corpus: Path) -> None:
    from tests.conftest import tiny_config

    service = TrainingService(home)
    run = service.start(tiny_config(corpus), "tiny")
    wait_for(lambda: service.active is None, 60)
    last = list(run.events())[-1]
    assert isinstance(last, Finished)
    assert (last.status, last.step) == ("finished", 20)


def test_several_processes_are_started_with_torchrun_and_their_refusal_is_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train.nproc` of the Presets form, also where nothing else trains; the sentence is that of a rank."""
    asked: list[list[str]] = []

    def refuse(command: list[str], run: Run) -> subprocess.Popen[bytes]:
        asked.append(command)
        (run.path / LOG).write_text(f"{HEADING}now\nrank 1: no room\nTraceback of torchrun\n")
        return subprocess.Popen(["false"])

    monkeypatch.setattr("workbench.train.service.start_detached", refuse)
    ends: list[tuple[str, str]] = []
    service = TrainingService(home, trainer=ScriptedTrainer())
    service.on_end = lambda name, reason: ends.append((name, reason))
    service.start(with_overrides(RunConfig(), [("train.nproc", "2")]), "far")
    wait_for(lambda: ends)
    assert asked[0][1:3] == ["-m", "torch.distributed.run"] and "--nproc-per-node=2" in asked[0]
    assert service.active is None and ends == [("far-1", "no room")]
