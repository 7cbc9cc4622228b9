"""A run so small that training it takes a second, with everything in it that could break a resume."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm.config import RunConfig, with_overrides
from llm.device import Plan
from llm.run import Run
from llm.tokenizer import Tokenizer
from llm.training.live import LiveWeights
from llm.training.state import TrainerState

TINY = {
    "tokenizer.kind": "byte",
    "data.order": "epoch",
    "data.validation_fraction": "0.2",
    "model.n_layer": "1",
    "model.d_model": "12",
    "model.n_head": "2",
    "model.context": "16",
    "model.dropout": "0.1",
    "train.steps": "24",
    "train.batch_size": "2",
    "train.accumulation": "3",
    "train.lr": "1e-2",
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.threads": "1",
    "train.log_every": "1",
    "evaluate.every": "9",
    "evaluate.batches": "3",
    "checkpoint.every": "7",
    "checkpoint.keep": "0",
    "sample.every": "10",
    "sample.max_tokens": "5",
}

MakeRun = Callable[..., Run]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def write_corpus(folder: Path) -> Path:
    """3 kB of words, the same every time: several passes over it in one run."""
    chance, words = random.Random(7), ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "home"]
    path = folder / "corpus.txt"
    path.write_text("\n".join(" ".join(chance.choices(words, k=6)) for _ in range(120)))
    return path


@pytest.fixture
def make_run(tmp_path: Path, corpus: Path) -> MakeRun:
    """make_run(name, path=text, …) creates a run of the tiny configuration with overrides."""

    def make(name: str, **overrides: str) -> Run:
        return create_run(tmp_path, name, corpus, **overrides)

    return make


def create_run(home: Path, name: str, corpus: Path, **overrides: str) -> Run:
    """A run of the tiny configuration with overrides, path=text (`train__steps="3"`)."""
    fields = TINY | {"data.corpus": str(corpus)} | {path.replace("__", "."): text for path, text in overrides.items()}
    return Run.create(home, name, with_overrides(RunConfig(), list(fields.items())))


@contextmanager
def file_system(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own at `place`, of `size` (256k, 64m)."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with file_system(tmp_path / "small", "256k") as place:
        yield place
        for checkpoints in tmp_path.glob("runs/*/checkpoints"):
            subprocess.run(["umount", "--lazy", str(checkpoints)], check=False, capture_output=True)


@pytest.fixture
def live_states(monkeypatch: pytest.MonkeyPatch) -> list[TrainerState]:
    """The state of every run that trains in this process, as soon as a chat could talk to it."""
    states: list[TrainerState] = []
    begin = LiveWeights.__init__

    def note(live: LiveWeights, run_name: str, state: TrainerState, tokenizer: Tokenizer, plan: Plan) -> None:
        states.append(state)
        begin(live, run_name, state, tokenizer, plan)

    monkeypatch.setattr(LiveWeights, "__init__", note)
    return states
