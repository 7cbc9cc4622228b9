"""A tokenizer trained in a subprocess: real processes, ended in every way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import train_tokenizer, training_process
from llm.tokenizer.training_process import SMALL_TEXT_CHARACTERS, train_in_subprocess

WORDS = ["Anna", "bruised", "Karl's", "cat,", "the", "17th", "of", "it,", "and", "the", "theatre", "is", "there."]
LONG = [" ".join(random.Random(seed).choices(WORDS, k=6000)) for seed in range(8)]
ENDLESS = ["".join(map(chr, random.Random(seed).choices(range(0x4E00, 0x5E00), k=200_000))) for seed in range(4)]
PATIENCE = 120.0


class Enough(Exception):
    """Raised by a report, to end the training."""


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "llm.tokenizer.training_process" in child.cmdline()]


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_it_is_the_tokenizer_that_is_learned_here(kind: str, tmp_path: Path) -> None:
    assert sum(map(len, LONG)) > SMALL_TEXT_CHARACTERS
    config = TokenizerConfig(kind=kind, vocab_size=330, special_tokens=("<|endoftext|>", "<|é|>"))  # type: ignore[arg-type]
    seen: list[float] = []
    apart = train_in_subprocess(config, [*LONG, "a\ud800b"], tmp_path, seen.append)
    assert apart.fingerprint() == train_tokenizer(config, [*LONG, "a\ud800b"]).fingerprint()
    assert seen == sorted(seen)
    assert list(tmp_path.iterdir()) == []
    assert children() == []


def test_it_reports_progress_and_ends_on_request(tmp_path: Path) -> None:
    """Text without spaces, which would take minutes: the reports keep coming, and what one raises ends it."""
    seen: list[float] = []

    def report(done: float) -> None:
        seen.append(done)
        if len({share for share in seen if share > 0}) >= 3:
            assert len(children()) == 1
            raise Enough

    with pytest.raises(Enough):
        train_in_subprocess(TokenizerConfig(vocab_size=30_000), ENDLESS, tmp_path, report)
    assert 0 < seen[-1] < 1
    assert children() == []
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_learned_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too many different characters"):
        train_in_subprocess(TokenizerConfig(kind="sentencepiece", vocab_size=300), ENDLESS, tmp_path, lambda done: None)


def test_a_process_that_is_killed_is_a_sentence(tmp_path: Path) -> None:
    def kill(done: float) -> None:
        for child in children():
            child.kill()

    with pytest.raises(UserError, match=r"ended by signal 9 \(out of memory\?\)"):
        train_in_subprocess(TokenizerConfig(vocab_size=30_000), ENDLESS, tmp_path, kill)


def test_a_process_that_fails_says_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_process, "TEXTS", "elsewhere")
    with pytest.raises(UserError, match="with status 1: FileNotFoundError"):
        train_in_subprocess(TokenizerConfig(), LONG, tmp_path, lambda done: None)


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends it with its parent only on Linux")
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from tests.tokenizer.test_training_process import *; "
        "config = TokenizerConfig(vocab_size=30_000); "
        "train_in_subprocess(config, ENDLESS, Path(sys.argv[1]), lambda done: print(done, flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + PATIENCE
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < limit:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
