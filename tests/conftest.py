"""Fixtures of several packages: an empty home, and one tiny trained run."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llm.config import RunConfig, from_toml, to_toml
from llm.environment import configure_threads
from llm.run import Run

if TYPE_CHECKING:
    from tests.cuda_for_tests import Gpu

if "PYTEST_XDIST_WORKER" in os.environ:
    gc.disable()  # until all is imported and collected, of which nothing is garbage
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several workers wait for each other: twice the time
configure_threads()  # before any test imports torch
sys.dont_write_bytecode = False  # each process that the tests start would compile the program again (0.5 s)
# A shell starts background jobs with SIGINT ignored, and every program that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what the imports made out of garbage collections: they took a fifth of the time of the screens' tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case by the beginning of a long text: names of a million characters went to every worker and back."""
    if isinstance(val, str | bytes) and len(val) > 200:
        return f"{val[:40]!a} of {len(val):,}"
    return None


TINY = """
purpose = "A model small enough to train in a second."
[tokenizer]
kind = "byte"
[model]
n_layer = 1
d_model = 32
n_head = 2
context = 32
[train]
steps = 20
batch_size = 4
lr = 1e-2
device = "cpu"
precision = "fp32"
threads = 1
log_every = 1
[evaluate]
every = 10
batches = 2
[checkpoint]
every = 10
[sample]
every = 0
"""


def write_corpus(folder: Path) -> Path:
    """A small text file: sentences with some order in them, and some that is not ASCII."""
    names, things = ("Ada", "Béla", "Chen", "Dora"), ("a red ball", "two cats", "the moon", "an old book")
    lines = [f"{names[i % 4]} saw {things[i * 7 % 11 % 4]} on day {i}.\n" for i in range(900)]
    path = folder / "corpus.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def tiny_config(corpus: Path) -> RunConfig:
    return from_toml(TINY + f"[data]\ncorpus = {str(corpus)!r}\nboundary = 'none'\n")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text file, the same for all tests."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tiny_preset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset file of a model that trains in a second."""
    path = tmp_path_factory.mktemp("preset") / "tiny.toml"
    path.write_text(to_toml(tiny_config(corpus)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 20 steps, saved at 10 and 20; its home is `trained_run.path.parent.parent`. Only to be read."""
    from llm.training.run import run_training

    home = tmp_path_factory.mktemp("trained-home")
    run = Run.create(home, "tiny-1", tiny_config(corpus))
    run_training(run, home)
    return run


@pytest.fixture
def trained_home(trained_run: Run, home: Path) -> Path:
    """A home with a copy of `trained_run`, to be changed."""
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    return home


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Two GPUs, of which nothing is real (`tests/cuda_for_tests.py`)."""
    from tests.cuda_for_tests import pretend_cuda

    with pretend_cuda(monkeypatch) as pretended:
        yield pretended
