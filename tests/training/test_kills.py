"""kill -9 while checkpoints are being written, again and again, on the temporary file system and on another one."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm.config import RunConfig, with_overrides
from llm.files import STAGING
from llm.run import Run
from llm.run.checkpoints import list_checkpoints, verify
from tests.forking import ForkedProgram, run_trainer

from .conftest import TINY, file_system
from .test_resume import assert_same_end

KILLS = 10
SHARED_MEMORY = Path("/dev/shm")
SAVED_BYTES = 2_800_000  # about, by a run of these settings
LIMIT = 120.0  # seconds for one process to get anywhere, on however busy a machine

# Every step saves, and a save writes enough for a kill to come in the middle of it.
SETTINGS = TINY | {
    "model.d_model": "128",
    "model.n_head": "2",
    "train.steps": "100000",
    "schedule.kind": "constant",
    "train.accumulation": "1",
    "evaluate.every": "0",
    "evaluate.at_start": "false",
    "sample.every": "0",
    "checkpoint.every": "1",
    "checkpoint.keep": "2",
}


@pytest.fixture(params=["the temporary file system", pytest.param("another file system", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "the temporary file system":
        yield tmp_path
        return
    with another_file_system(tmp_path) as place:
        assert place.stat().st_dev != tmp_path.stat().st_dev
        yield place


@contextmanager
def another_file_system(tmp_path: Path) -> Iterator[Path]:
    """A directory on the shared-memory file system where that is another one, else on one mounted for the purpose."""
    if SHARED_MEMORY.is_dir() and SHARED_MEMORY.stat().st_dev != tmp_path.stat().st_dev:
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as place:
            yield Path(place)
    else:
        with file_system(tmp_path / "other", "256m") as place:
            yield place


def training(run: Run, *flags: str) -> ForkedProgram:
    return ForkedProgram(run_trainer, str(run.path), *flags)


def kill_in_a_save(run: Run, process: ForkedProgram, share: float) -> bool:
    """Kill the trainer once a save of this process is `share` of the way through its files; whether one was under way
    after the kill, which may have come too late."""
    deadline = time.monotonic() + LIMIT
    pattern = f"{STAGING}{process.pid}-*"
    while time.monotonic() < deadline:
        staged = next(iter(run.checkpoint_directory.glob(pattern)), None)
        if staged is not None and size_of(staged) >= share * SAVED_BYTES:
            break
        assert process.poll() is None, f"the trainer ended with {process.returncode}"
    process.kill()
    assert process.wait(LIMIT) == -signal.SIGKILL
    return any(run.checkpoint_directory.glob(pattern))


def size_of(directory: Path) -> int:
    """Bytes staged so far; the directory may get its name, and so vanish, meanwhile."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(directory))
    except FileNotFoundError:
        return 0


def test_killed_in_the_middle_of_saves_a_run_is_always_whole_and_continues(home: Path, corpus: Path) -> None:
    fields = SETTINGS | {"data.corpus": str(corpus)}
    run = Run.create(home, "killed", with_overrides(RunConfig(), list(fields.items())))
    chance, in_a_save, newest = random.Random(5), 0, 0
    for _ in range(KILLS):
        process = training(run)
        while newest == step_of(run):  # it goes on from where it was, and has saved once more
            assert process.poll() is None, f"the trainer ended with {process.returncode}"
            time.sleep(0.001)
        in_a_save += kill_in_a_save(run, process, chance.choice((0.0, 0.2, 0.5, 0.9)))
        infos = list_checkpoints(run.checkpoint_directory)
        assert infos, "a kill took the last checkpoint"
        for info in infos:
            verify(info)
        assert infos[-1].step > newest
        newest = infos[-1].step
    assert in_a_save >= KILLS // 2, f"only {in_a_save} of {KILLS} kills came in the middle of a save"
    last = training(run, "--train.steps", str(newest + 3))
    assert last.wait(LIMIT) == 0
    whole = Run.create(home, "whole", with_overrides(RunConfig(), list(fields.items())))
    undisturbed = training(whole, "--train.steps", str(newest + 3))
    assert undisturbed.wait(LIMIT) == 0
    assert_same_end(whole, run)
    assert not list(run.checkpoint_directory.glob(f"{STAGING}*")), "what killed writers left is cleared"


def step_of(run: Run) -> int:
    infos = list_checkpoints(run.checkpoint_directory)
    return infos[-1].step if infos else 0
