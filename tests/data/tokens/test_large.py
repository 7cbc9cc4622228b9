"""A tokenized dataset of 100 GB, whose files are holes: opening it reads headers, not tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from llm.config import TokenizerConfig
from llm.data.batches.windows import evaluation_windows
from llm.data.tokens.dataset import all_token_files, load_dataset, verify_dataset
from llm.data.tokens.shards import SHARD_TOKENS, Header
from llm.data.tokens.verification import record_written
from llm.tokenizer import build_tokenizer

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
