"""What a person, a disk or a terminal may do to a training in the command line without losing a checkpoint."""

from __future__ import annotations

import itertools
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.config import load_preset
from llm.events import Finished, Started, StepLogged, Warned
from llm.run import Run
from tests.forking import NOTHING, ForkedProgram, complete, run_workbench
from workbench.runs.trash import list_trash

PROGRAM = [sys.executable, "-m", "workbench"]
ENDLESS = ("--train.steps", "1000000")
UNFORESEEN = "unexpected error"


def workbench(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return complete(run_workbench, *words, "--home", str(home))


def start(home: Path, preset: Path, *words: str, errors: str | None = None) -> ForkedProgram:
    command = ["train", str(preset), "--name", "own", *words, "--home", str(home)]
    streams = (NOTHING, NOTHING, errors or home.with_name("errors.txt"))
    return ForkedProgram(run_workbench, *command, streams=streams)


def wait_for(condition: Callable[[], object], process: ForkedProgram, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the training has ended"
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.02)


def training(home: Path, preset: Path) -> tuple[Run, ForkedProgram]:
    """A run in training that has saved at least once."""
    process, run = start(home, preset, *ENDLESS), Run(home / "runs" / "own")
    wait_for(lambda: run.checkpoint_directory.exists() and run.checkpoints(), process)
    return run, process


def test_a_removed_event_log_is_started_again_and_nothing_is_lost(home: Path, tiny_preset: Path) -> None:
    run, process = training(home, tiny_preset)
    (run.path / "events.jsonl").unlink()
    wait_for(lambda: any(isinstance(event, StepLogged) for event in run.events()), process)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    events = list(run.events())
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert isinstance(events[1], Warned) and "the event log was removed while training" in events[1].message
    assert run.checkpoint().step == events[-1].step


def test_a_run_moved_while_it_trains_ends_with_a_sentence_and_keeps_its_checkpoints(
    home: Path, tiny_preset: Path
) -> None:
    run, process = training(home, tiny_preset)
    moved = Run(run.path.rename(home / "runs" / "elsewhere"))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and UNFORESEEN not in said
    assert said.splitlines()[-1].startswith("the folder of own was removed or moved away, so its training has ended")
    assert moved.checkpoints() and not run.path.exists()


def test_an_error_after_the_log_was_emptied_deletes_no_checkpoint(home: Path, tiny_preset: Path) -> None:
    run, process = training(home, tiny_preset)
    os.truncate(run.path / "events.jsonl", 0)
    for shard in (home / "data").glob("*/*.bin"):
        os.truncate(shard, 10)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "has 10 bytes" in said
    assert run.checkpoints()


def test_a_fork_that_cannot_begin_goes_to_the_trash(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    words = ("fork", "tiny-1@10", "--name", "child", "--evaluate.core-every", "5")
    done = workbench(home, *words, "--evaluate.core-path", str(home / "nowhere"))
    assert done.returncode in (1, 2) and UNFORESEEN not in done.stderr
    assert not (home / "runs" / "child").exists()
    (deleted,) = list_trash(home)
    assert deleted.name == "child" and Run(deleted.path).checkpoints()


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param("2>/dev/full", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param(">&- --json", marks=pytest.mark.slow),
        ">&- 2>&- <&-",
    ],
)
def test_narration_that_cannot_be_written_ends_no_training(home: Path, tiny_preset: Path, streams: str) -> None:
    line = f'exec "$0" -m workbench train "$1" --name own --home "$2" {streams}'
    command = ["sh", "-c", line, sys.executable, str(tiny_preset), str(home)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=300, check=False).returncode == 0
    run = Run(home / "runs" / "own")
    assert run.status().name == "finished" and run.checkpoint().step == 20
    assert not (home / "logs").exists()


def test_narration_without_space_ends_no_training(home: Path, tiny_preset: Path) -> None:
    """As `2>/dev/full`, without the start of a Python."""
    assert start(home, tiny_preset, errors="/dev/full").wait(300) == 0
    assert Run(home / "runs" / "own").status().name == "finished"


def test_a_lost_terminal_under_the_narration_ends_no_training(home: Path, tiny_preset: Path) -> None:
    outside, inside = pty.openpty()
    process = start(home, tiny_preset, "--train.steps", "150", errors=os.ttyname(inside))
    os.close(inside)
    run = Run(home / "runs" / "own")
    wait_for(lambda: run.path.exists() and any(isinstance(event, StepLogged) for event in run.events()), process)
    os.close(outside)
    process.communicate(timeout=300)
    assert process.returncode == 0 and run.status().name == "finished"


def test_a_signal_during_an_evaluation_saves(home: Path, tiny_preset: Path) -> None:
    """Its progress is no longer that of preparing the data, when there is nothing to save."""
    long = (*ENDLESS, "--evaluate.every", "1", "--evaluate.batches", "0", "--evaluate.at-start", "false")
    process, run = start(home, tiny_preset, *long, "--checkpoint.every", "0"), Run(home / "runs" / "own")
    wait_for(lambda: run.path.exists() and any(isinstance(event, StepLogged) for event in run.events()), process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    last = list(run.events())[-1]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert isinstance(last, Finished) and last.status == "stopped" and run.checkpoint().step == last.step


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the lock, which names who looked last."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_text_that_changed_its_vocabulary_is_named_and_refusing_changes_nothing(home: Path, tiny_preset: Path) -> None:
    text = home / "own.txt"
    text.write_text("one small fish met two red fish. " * 400)
    made = workbench(
        home, "train", str(tiny_preset), "--name", "own", "--train.steps", "4", "--tokenizer.kind", "char",
        "--data.corpus", str(text),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    text.write_text(text.read_text() + "∂x ≠ ∑y")
    before = contents(home / "runs")
    for words in (("resume", "own", "--train.steps", "8"), ("fork", "own", "--train.steps", "8")):
        refused = workbench(home, *words)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("the text of own has changed since it was trained")
        assert contents(home / "runs") == before
    assert Run(home / "runs" / "own").status().name == "finished"


def test_a_fork_of_a_long_name_finds_a_name(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path, home / "runs" / ("x" * 64))
    for number in (1, 2):
        done = workbench(home, "fork", "x" * 64 + "@10", "--train.steps", "11")
        assert done.returncode == 0, done.stderr
        assert Run(home / "runs" / ("x" * 52 + f"-fork-{number}")).status().name == "finished"


USUAL = (("train quickstart", 600), ("doctor", 300), ("grpo none", 300))


@pytest.mark.parametrize(
    ("words", "megabytes"),
    [
        pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow)
        for case in itertools.product(("train quickstart", "doctor", "grpo none"), (300, 600))
    ],
)
def test_too_little_memory_is_a_sentence(home: Path, words: str, megabytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = [*PROGRAM, *words.split(), "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("; raise the limit."), done.stderr
    assert not (home / "runs").exists()


def test_extending_says_what_the_rate_will_do_and_can_keep_it(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    assert load_preset("quickstart", home)
    for name in ("follows", "keeps"):
        shutil.copytree(home / "runs" / "tiny-1", home / "runs" / name)
    ended_at = [event.lr for event in trained_run.events() if isinstance(event, StepLogged)][-1]
    followed = workbench(home, "resume", "follows", "--train.steps", "40")
    assert followed.returncode == 0
    said = "the schedule is stretched over the new length: the learning rate goes from 6.16e-05, where the run stands, "
    assert said + "to 5.00e-03 at step 21, and ends at 1.54e-05 at step 40" in followed.stderr
    assert followed.stderr.index(said) < followed.stderr.index("step 20: resumed")
    kept = workbench(home, "resume", "keeps", "--train.steps", "40", "--keep-rate")
    assert kept.returncode == 0 and "the learning rate stays at 6.16e-05 until the last step, 40" in kept.stderr
    rates = {name: later_rates(home, name) for name in ("follows", "keeps")}
    assert rates["follows"][0] == pytest.approx(5e-3) and len(rates["keeps"]) == 20
    assert all(rate == pytest.approx(ended_at) for rate in rates["keeps"])
    refused = workbench(home, "resume", "keeps", "--keep-rate", "--train.epochs", "9")
    assert refused.returncode == 2 and "--keep-rate needs a new length" in refused.stderr


def later_rates(home: Path, name: str) -> list[float]:
    events = Run(home / "runs" / name).events()
    return [event.lr for event in events if isinstance(event, StepLogged) and event.step > 20]
