"""A tokenized dataset of 100 GB, whose files are holes: opening it reads headers, not tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from llm.config import RunConfig, TokenizerConfig, with_overrides
from llm.data.batches.windows import Batches, evaluation_windows
from llm.data.tokens.dataset import all_token_files, load_dataset, verify_dataset
from llm.data.tokens.prepare import identify
from llm.data.tokens.shards import SHARD_TOKENS, Header
from llm.data.tokens.verification import record_written
from llm.tokenizer import build_tokenizer

Result = TypeVar("Result")
GIGABYTES = 100
SHARDS = GIGABYTES * 1_000_000_000 // (2 * SHARD_TOKENS)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The folder of a dataset of bytes as tokens, without the disk space for them."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="byte"), ())
    tokenizer.save(tmp_path / "tokenizer")
    header = asdict(Header(SHARD_TOKENS, "uint16", tokenizer.vocab_size, tokenizer.fingerprint(), "0" * 64))
    names = {"train": [f"train-{i:05d}" for i in range(SHARDS)], "validation": ["validation-00000"]}
    for name in (*names["train"], *names["validation"]):
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate(2 * SHARD_TOKENS)
        (tmp_path / f"{name}.json").write_text(json.dumps(header))
    splits = {side: {"shards": stems, "bytes": SHARD_TOKENS * len(stems)} for side, stems in names.items()}
    index = {"warnings": [], "fingerprint": "large", "splits": splits}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    record_written(tmp_path, all_token_files(tmp_path, index))
    return tmp_path


def test_100_gb_open_without_reading_them(large: Path) -> None:
    dataset = load_dataset(large)
    assert list(verify_dataset(dataset)) == [], "no file is read in full"
    assert len(dataset.train) == SHARDS * SHARD_TOKENS > 49e9
    border = 7 * SHARD_TOKENS
    assert len(dataset.train.read(border - 5, border + 5)) == 10
    assert dataset.train.read(len(dataset.train) - 3, len(dataset.train)).tolist() == [0, 0, 0]
    assert len(evaluation_windows(dataset.train, 1024, 20)) == 20


def test_a_rank_opens_only_the_shards_of_its_rows(large: Path) -> None:
    train = load_dataset(large).train
    batches = Batches(train, rows=32, seq_len=1024, seed=1, order="random", rank=3, ranks=16)
    assert len(batches.batch(0)[0]) == 2
    assert 1 <= len([path for path in open_paths() if path.startswith(str(large))]) <= 4


def test_a_corpus_larger_than_memory_is_recognized_without_reading_it(tmp_path: Path) -> None:
    """Its checksum is known from the first time; the file is a text and then a hole."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The cat sat on the mat.\n" * 1000)
    os.truncate(corpus, 2 * psutil.virtual_memory().total)
    status = corpus.stat()
    record = {os.fsencode(corpus).hex(): [status.st_size, status.st_ctime_ns, status.st_ino, "0" * 64]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "files.json").write_text(json.dumps(record))
    config = with_overrides(RunConfig(), [("data.corpus", str(corpus)), ("tokenizer.kind", "byte")])
    before = psutil.Process().io_counters().read_chars
    source, _, fingerprint = finish(identify(config, tmp_path))
    assert source.size_bytes == status.st_size and len(fingerprint) == 32
    assert psutil.Process().io_counters().read_chars - before < 100e6


def finish(generator: Generator[Any, None, Result]) -> Result:
    """The return value of a generator."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            result: Result = end.value
            return result


def open_paths() -> list[str]:
    """The files that this process has open."""
    return [os.path.realpath(name) for name in Path("/proc/self/fd").iterdir()]
