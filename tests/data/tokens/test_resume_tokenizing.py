"""Tokenizing that was killed continues from its last finished shard, and gives the same files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from llm.config import RunConfig, with_overrides
from llm.data.tokens import tokenize
from llm.data.tokens.staging import UNFINISHED
from llm.events import Progress
from tests.forking import ForkedProgram
from workbench.data.prepared_data import list_prepared

from .test_prepare import prepared

BYTES = 600_000
SETTINGS = {
    "tokenizer.kind": "bpe",
    "tokenizer.vocab_size": "300",
    "data.validation_fraction": "0.1",
    "data.processes": "1",
    "model.context": "16",
}


def small_shards() -> None:
    tokenize.SHARD_TOKENS = 20_000
    tokenize.BATCH_CHARACTERS = 10_000


def prepare_and_die(corpus: str, home: str, after_bytes: int) -> None:
    """Prepare the dataset, and send this process SIGKILL when it has written so much text."""
    small_shards()
    add_text = tokenize.SplitWriter.add_text
    written = 0

    def count(writer: tokenize.SplitWriter, text: str) -> None:
        nonlocal written
        written += len(text.encode())
        if written > after_bytes:
            os.kill(os.getpid(), signal.SIGKILL)
        add_text(writer, text)

    tokenize.SplitWriter.add_text = count  # type: ignore[method-assign]
    prepared(config(corpus), Path(home))


def config(corpus: str | Path) -> RunConfig:
    return with_overrides(RunConfig(), [*SETTINGS.items(), ("data.corpus", str(corpus))])


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a dataset, but for the record of their times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "verified.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tokenize, "SHARD_TOKENS", 20_000)
    monkeypatch.setattr(tokenize, "BATCH_CHARACTERS", 10_000)
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"Line {n} of a text with {n * n % 977} in it.\n" for n in range(BYTES // 35)))
    return path


def killed(corpus: Path, home: Path, share: float) -> Path:
    """The folder that a killed process leaves, at that share of the text."""
    after = int(share * corpus.stat().st_size)
    process = ForkedProgram(prepare_and_die, str(corpus), str(home), after)
    assert process.wait(300) == -signal.SIGKILL
    (folder,) = (home / "data").glob(".tmp-*")
    return folder


def test_two_kills_cost_no_finished_shard_and_change_no_bit(corpus: Path, tmp_path: Path) -> None:
    undisturbed, _ = prepared(config(corpus), tmp_path / "quiet")
    home = tmp_path / "home"
    killed(corpus, home, 0.4)
    folder = killed(corpus, home, 0.4)
    shards = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*.json")}
    assert len(shards) >= 3 and (folder / UNFINISHED).exists()
    dataset, progress = prepared(config(corpus), home)
    assert any(event.stage == "Verifying what is tokenized already" for event in progress)
    assert not any(event.stage == "Training the tokenizer" for event in progress), "it is kept too"
    assert contents(dataset.path) == contents(undisturbed.path)
    kept = {name: (dataset.path / name).stat().st_mtime_ns for name in shards}
    assert sum(kept[name] == shards[name] for name in shards) >= len(shards) - 1, (
        "the one after the record is rewritten"
    )
    assert not list((home / "data").glob(".tmp-*"))


def test_a_damaged_shard_is_found_and_all_is_made_again(corpus: Path, tmp_path: Path) -> None:
    undisturbed, _ = prepared(config(corpus), tmp_path / "quiet")
    home = tmp_path / "home"
    folder = killed(corpus, home, 0.7)
    assert [data.path for data in list_prepared(home) if not data.used_by] == [folder], "it can be deleted too"
    shard = folder / "train-00000.bin"
    shard.write_bytes(b"\0\0" + shard.read_bytes()[2:])
    dataset, progress = prepared(config(corpus), home)
    assert isinstance(progress[0], Progress)
    assert contents(dataset.path) == contents(undisturbed.path)
