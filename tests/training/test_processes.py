"""Real processes, real signals: nothing that ends a trainer loses more than the steps since its last checkpoint."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.events import Finished, StepLogged
from llm.files import read_json
from llm.run import Run
from llm.run.checkpoints import verify
from llm.train import main
from tests.forking import NOTHING, ForkedProgram, run_trainer

from .conftest import MakeRun
from .test_resume import assert_same_end


def spawn(run: Run) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llm.train", str(run.path)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def fork(run: Run) -> ForkedProgram:
    """The same, forked from a process that has loaded torch."""
    return ForkedProgram(run_trainer, str(run.path), streams=(NOTHING, NOTHING, errors_of(run)))


def errors_of(run: Run) -> Path:
    return run.path.with_name(f"{run.name}.txt")


def wait_for_step(run: Run, step: int, process: subprocess.Popen[bytes] | ForkedProgram) -> None:
    tail, deadline = run.tail(), time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(isinstance(event, StepLogged) and event.step >= step for event in tail.poll()):
            return
        assert process.poll() is None, "it has ended"
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first(make_run: MakeRun, number: signal.Signals, status: int) -> None:
    run = make_run("signalled", train__steps="1000000", checkpoint__every="0")
    process = spawn(run) if number == signal.SIGTERM else fork(run)
    wait_for_step(run, 20, process)
    assert run.checkpoints() == []
    process.send_signal(number)
    assert process.wait(120) == status
    finished = list(run.events())[-1]
    assert isinstance(finished, Finished) and finished.status == "stopped" and number.name in finished.reason
    assert run.checkpoint().step == finished.step >= 20
    assert run.status().name == "stopped"


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(make_run: MakeRun, tmp_path: Path) -> None:
    settings = {"train__steps": "120", "checkpoint__every": "5", "checkpoint__keep": "2", "sample__every": "0"}
    whole, run = make_run("whole", **settings), make_run("killed", **settings)
    assert fork(whole).wait(120) == 0
    chance, target = random.Random(3), 0
    for _ in range(2):
        process = fork(run)
        target += chance.randint(20, 50)
        wait_for_step(run, target, process)
        process.kill()
        process.wait()
        assert run.status().name == "crashed"
        assert run.checkpoints(), "every kill here came after a save"
    assert fork(run).wait(120) == 0
    assert_same_end(whole, run)
    assert not list(run.checkpoint_directory.glob(".tmp-*"))


def test_fields_of_the_program_in_either_spelling(make_run: MakeRun) -> None:
    run = make_run("flags")
    assert main([str(run.path), "--train.steps=2", "--evaluate.train-too", "--sample.every", "0"]) == 0
    assert run.checkpoint().step == 2
    overrides = read_json(run.checkpoint().path / "state.json")["overrides"]
    assert overrides == {"train.steps": "2", "evaluate.train_too": "true", "sample.every": "0"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.steps"], "train.steps: needs a value: --train.steps VALUE"),
        (["stray"], "unrecognized arguments: stray; see python -m llm.train --help."),
        (["--train.stepz", "3"], "train.stepz: there is no such field; did you mean train.steps?"),
    ],
)
def test_what_the_program_does_not_understand_is_refused_in_a_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    run = make_run("refused")
    assert main([str(run.path), *words]) == 2
    assert capsys.readouterr().err.strip() == said
    assert run.status().name == "new", "a slip of the hand is no failure of the run"


def test_a_folder_without_a_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nope")]) == 2
    assert capsys.readouterr().err.startswith(f"there is no run in {tmp_path / 'nope'}; give the folder of one")


def test_a_second_trainer_is_refused(make_run: MakeRun) -> None:
    run = make_run("busy", train__steps="1000000")
    first = fork(run)
    try:
        wait_for_step(run, 1, first)
        second = fork(run)
        _, said = second.communicate(timeout=120)
        assert second.returncode == 1
        assert f"process {first.pid}" in said and "Traceback" not in said
    finally:
        first.kill()
        first.wait()


def test_a_second_interrupt_ends_at_once_and_harms_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    """Every step saves, so that the second signal mostly comes in the middle of a save."""
    run = make_run("twice", train__steps="1000000", checkpoint__every="1", checkpoint__keep="2", sample__every="0")
    for target in (3, 8):
        process = fork(run)
        wait_for_step(run, target, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.002 * target % 0.007)  # another moment of the save each time
        process.send_signal(signal.SIGINT)
        assert process.wait(120) in (130, -signal.SIGINT)
        verify(run.checkpoint())
        assert not (run.path / "crash.txt").exists()
        assert run.status().name == "stopped"


def test_a_lost_terminal_does_not_end_a_training(make_run: MakeRun) -> None:
    run = make_run("hung-up", train__steps="1000000", checkpoint__every="0")
    process = fork(run)
    wait_for_step(run, 3, process)
    process.send_signal(signal.SIGHUP)
    wait_for_step(run, 30, process)
    process.terminate()
    assert process.wait(120) == 143
