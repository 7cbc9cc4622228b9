"""What a tokenizer learns from in a prepared dataset, and what is said about it."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow as arrow
import pytest
from pyarrow import parquet

from llm.config import RunConfig, from_mapping
from llm.data.text.parquet import RowGroup, RowGroups
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.fingerprint import ADDED_FIELDS, training_settings
from llm.data.tokens.prepare import prepare
from llm.data.tokens.sources import spread_groups
from llm.errors import ConfigError
from llm.events import Progress
from llm.run import Run
from tests.tokenizer.test_sampling import LANGUAGES


def prepared(config: RunConfig, home: Path) -> tuple[Dataset, list[Progress]]:
    seen: list[Progress] = []
    steps = prepare(config, home)
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def config_of(corpus: Path | str, tokenizer: dict[str, object], **data: object) -> RunConfig:
    return from_mapping(
        {"data": {"corpus": str(corpus), **data}, "tokenizer": tokenizer, "model": {"context": 16}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder sorted by language, 200 kB of each."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name, line in LANGUAGES.items():
        (folder / f"{name}.txt").write_text((line + "\n") * (200_000 // len(line.encode())), encoding="utf-8")
    return folder


def test_a_folder_sorted_by_language_is_learned_from_everywhere(folder: Path, tmp_path: Path) -> None:
    dataset, seen = prepared(config_of(folder, {"vocab_size": 400, "train_mb": 0.05}), tmp_path)
    for line in LANGUAGES.values():
        assert len(dataset.tokenizer.encode(line)) < 0.3 * len(line.encode())
    assert dataset.notes == ("The tokenizer was trained on 0.0 MB of text, evenly spread over 0.6 MB.",)
    beginning = config_of(folder, {"vocab_size": 400, "train_mb": 0.05, "train_sample": "beginning"})
    other, _ = prepared(beginning, tmp_path)
    assert other.fingerprint != dataset.fingerprint
    assert len(other.tokenizer.encode(LANGUAGES["ru"])) > 0.9 * len(LANGUAGES["ru"].encode())
    stages = list(dict.fromkeys(event.stage for event in seen))
    assert stages[1:3] == ["Reading text for the tokenizer", "Training the tokenizer"]


def test_fewer_ids_than_asked_for_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the theatre is there\n" * 200)
    dataset, _ = prepared(config_of(path, {"vocab_size": 1000}), tmp_path)
    (warning,) = dataset.warnings
    assert f"has {dataset.tokenizer.vocab_size} ids, not 1,000" in warning
    assert prepared(config_of(path, {"vocab_size": 260}), tmp_path)[0].warnings == ()


def test_data_prepared_before_there_were_these_fields_are_found_again(folder: Path) -> None:
    """0.1.0 named them by the fields it had."""
    old = {"kind", "vocab_size", "encoding", "path", "special_tokens", "train_mb"}
    for corpus, sample in (("stories", "spread"), ("pylib", "beginning"), (str(folder), "beginning")):
        assert set(training_settings(config_of(corpus, {"train_sample": sample}))) == old
    assert set(training_settings(config_of(folder, {"kind": "char"}))) == old
    assert set(training_settings(config_of(folder, {}))) == old | {"train_sample"}
    others = {"ties": "bytes", "pattern": "gpt2"}
    assert set(training_settings(config_of("stories", others))) == old | set(others)


def test_a_run_of_0_1_0_learned_from_the_beginning(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "old", RunConfig())
    assert run.config() == RunConfig()
    path = run.path / "run.toml"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split(" ")[0] not in ADDED_FIELDS), encoding="utf-8")
    before = replace(RunConfig().tokenizer, train_sample="beginning")
    assert run.config() == replace(RunConfig(), tokenizer=before)


def test_a_pattern_that_is_none_is_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.pattern"):
        prepared(config_of(folder, {"pattern": "("}), tmp_path)
    assert not (tmp_path / "data").exists()


def test_row_groups_of_a_stream_are_read_all_over_it() -> None:
    text = RowGroups(tuple(RowGroup(Path("a"), number, 1_000_000) for number in range(1000)), "text")
    chosen = spread_groups(text, 50e6)
    assert len(chosen) == 100
    assert {b - a for a, b in pairwise(chosen)} == {10}
    assert spread_groups(text, 1e12) == list(range(1000))
    assert len(spread_groups(text, 1)) == 64


def test_a_stream_sorted_by_language_is_learned_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    rows = [line for line in LANGUAGES.values() for _ in range(3000)] + ["held out "] * 500
    parquet.write_table(arrow.table({"text": rows}), path, row_group_size=500)
    dataset, _ = prepared(config_of(path, {"vocab_size": 400, "train_mb": 0.05}, order="stream"), tmp_path)
    assert dataset.stream is not None
    for line in LANGUAGES.values():
        assert len(dataset.tokenizer.encode(line)) < 0.3 * len(line.encode())


def test_ctrl_c_ends_the_training_of_a_tokenizer_on_text_without_spaces(tmp_path: Path) -> None:
    """The command ends with its process; 30,000 ids would take minutes."""
    path = tmp_path / "one_line.txt"
    path.write_text(base64.b64encode(random.Random(1).randbytes(4_000_000)).decode())
    command = [sys.executable, "-m", "workbench", "data", "quickstart", "--home", str(tmp_path / "home")]
    command += ["--data.corpus", str(path), "--tokenizer.vocab_size", "30000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if b"Training the tokenizer" in line:
            break
    limit = time.monotonic() + 120
    while not (children := psutil.Process(process.pid).children()) and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert children
    assert all(not child.is_running() or child.status() == psutil.STATUS_ZOMBIE for child in children)
    assert list((tmp_path / "home" / "data").glob("*/*")) == []
