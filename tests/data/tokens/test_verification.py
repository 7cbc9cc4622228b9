"""Prepared data are read in full once, and again when something touched them; any number of files needs few open."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm.config import RunConfig
from llm.data.tokens.dataset import Dataset, load_dataset
from llm.data.tokens.open_files import OpenFiles
from llm.data.tokens.prepare import prepare
from llm.data.tokens.token_files import join_token_files
from llm.errors import UserError
from llm.files import sha256_of
from tests.forking import complete, run_workbench

VERIFYING = "Verifying the tokenized dataset"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    base = RunConfig()
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {n} of the text.\n" for n in range(300)))
    return replace(
        base,
        data=replace(base.data, corpus=str(text)),
        tokenizer=replace(base.tokenizer, kind="char"),
        model=replace(base.model, context=16),
    )


def stages(config: RunConfig, home: Path) -> tuple[Dataset, set[str]]:
    """The dataset, and what was done to have it."""
    steps, seen = prepare(config, home), set()
    while True:
        try:
            seen.add(next(steps).stage)
        except StopIteration as end:
            return end.value, seen


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """A limit of open files that leaves room for `more` at most."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_was_just_made_is_not_read_again_and_a_copy_is(config: RunConfig, tmp_path: Path) -> None:
    dataset, made = stages(config, tmp_path)
    assert "Tokenizing" in made and VERIFYING not in made
    assert VERIFYING not in stages(config, tmp_path)[1]
    copied = tmp_path / "copy"
    shutil.copytree(dataset.path, copied)
    shutil.rmtree(dataset.path)
    copied.rename(dataset.path)
    assert VERIFYING in stages(config, tmp_path)[1]
    assert VERIFYING not in stages(config, tmp_path)[1]


def test_data_of_version_0_1_0_are_read_once(config: RunConfig, tmp_path: Path) -> None:
    dataset, _ = stages(config, tmp_path)
    (dataset.path / "verified.json").unlink()  # which that version does not write
    assert VERIFYING in stages(config, tmp_path)[1]
    assert VERIFYING not in stages(config, tmp_path)[1]


def test_changed_tokens_are_named(config: RunConfig, tmp_path: Path) -> None:
    dataset, _ = stages(config, tmp_path)
    shard = dataset.path / "train-00000.bin"
    tokens = np.fromfile(shard, dtype="<u2")
    tokens[::50] = tokens[0]
    tokens.tofile(shard)
    with pytest.raises(UserError, match=r"train-00000\.bin differs from what was written; delete the folder"):
        stages(config, tmp_path)


def test_changed_tokens_are_named_if_the_time_of_modification_was_kept(config: RunConfig, tmp_path: Path) -> None:
    dataset, _ = stages(config, tmp_path)
    shard = dataset.path / "train-00000.bin"
    before, tokens = shard.stat(), np.fromfile(shard, dtype="<u2")
    tokens[::50] = tokens[0]
    with shard.open("r+b") as file:
        file.write(tokens.tobytes())
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = shard.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    with pytest.raises(UserError, match=r"train-00000\.bin differs from what was written"):
        stages(config, tmp_path)


def test_an_id_past_the_vocabulary_is_named_with_its_place(config: RunConfig, tmp_path: Path) -> None:
    dataset, _ = stages(config, tmp_path)
    shard = dataset.path / "train-00000.bin"
    with shard.open("r+b") as file:
        file.seek(2 * 100)
        file.write(b"\xff\xff")
    header = json.loads(shard.with_suffix(".json").read_bytes()) | {"sha256": sha256_of(shard)}
    shard.with_suffix(".json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"train-00000\.bin holds the id 65535 at offset 100"):
        stages(config, tmp_path)


def test_an_id_past_the_vocabulary_in_a_chunk_is_named(config: RunConfig, tmp_path: Path) -> None:
    chunked = replace(config, data=replace(config.data, chunk_tokens=500))
    dataset, _ = stages(chunked, tmp_path)
    chunk = dataset.path / "train" / "encoded_tokens_chunk_1.dat"
    tokens = np.fromfile(chunk, dtype="<i4")
    tokens[3] = 9999
    tokens.tofile(chunk)
    with pytest.raises(UserError, match=r"chunk_1\.dat holds the id 9999 at offset 3"):
        stages(chunked, tmp_path)


def test_changed_tokens_in_a_chunk_are_named_if_the_index_has_checksums(config: RunConfig, tmp_path: Path) -> None:
    chunked = replace(config, data=replace(config.data, chunk_tokens=500))
    dataset, _ = stages(chunked, tmp_path)
    chunk = dataset.path / "validation" / "encoded_tokens_chunk_0.dat"
    tokens = np.fromfile(chunk, dtype="<i4")
    tokens[::50] = tokens[0]
    tokens.tofile(chunk)
    with pytest.raises(UserError, match=r"chunk_0\.dat differs from what was written; delete the folder") as caught:
        stages(chunked, tmp_path)
    assert f"delete the folder {dataset.path} and" in str(caught.value)
    index = json.loads((dataset.path / "dataset.json").read_bytes())
    for split in index["splits"].values():
        del split["sha256"]  # as in 0.1.0
    (dataset.path / "dataset.json").write_text(json.dumps(index))
    assert VERIFYING in stages(chunked, tmp_path)[1]


@pytest.mark.parametrize("checksums", [["0"], "0", 7])
def test_a_damaged_list_of_checksums_is_named(config: RunConfig, tmp_path: Path, checksums: object) -> None:
    chunked = replace(config, data=replace(config.data, chunk_tokens=500))
    dataset, _ = stages(chunked, tmp_path)
    index = json.loads((dataset.path / "dataset.json").read_bytes())
    index["splits"]["train"]["sha256"] = checksums
    (dataset.path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged; delete that folder"):
        load_dataset(dataset.path)


@pytest.mark.parametrize("names", [["../../other"], ["train-00000", "/etc/passwd"], [], "train-00000", [None]])
def test_an_index_names_no_files_elsewhere(config: RunConfig, tmp_path: Path, names: object) -> None:
    dataset, _ = stages(config, tmp_path)
    index = json.loads((dataset.path / "dataset.json").read_bytes())
    index["splits"]["train"]["shards"] = names
    (dataset.path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged; delete that folder"):
        load_dataset(dataset.path)


def test_more_files_than_may_be_open_are_read_as_one(tmp_path: Path) -> None:
    """1,200 chunks, as many as 600 M tokens at the lecture's size have; 20 descriptors are to be had."""
    paths = []
    for number in range(1_200):
        paths.append(tmp_path / f"encoded_tokens_chunk_{number}.dat")
        np.arange(10 * number, 10 * number + 10, dtype="<i4").tofile(paths[-1])
    with few_descriptors(20):
        tokens = join_token_files("training", paths, 12_000, 0)
        assert len(tokens) == 12_000
        assert tokens.read(0, 12_000).tolist() == list(range(12_000))
        assert tokens.read(5_995, 6_005).tolist() == list(range(5_995, 6_005))


def run_with_few_descriptors(*words: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    run_workbench(*words)


def test_a_run_trains_on_more_files_than_may_be_open(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {n} of the text, and more of it.\n" for n in range(800)))
    fields = "--data.corpus", str(text), "--data.chunk-tokens", "100", "--tokenizer.kind", "byte"
    more = "--model.context", "16", "--train.steps", "3", "--train.device", "cpu", "--train.threads", "1"
    words = ["train", "quickstart", "--name", "many", *fields, *more, "--home", str(tmp_path / "home")]
    ended = complete(run_with_few_descriptors, *words)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "home").glob("data/*/train/*.dat"))) > 250


def test_prepared_data_are_never_called_damaged_for_too_many_open_files(config: RunConfig, tmp_path: Path) -> None:
    dataset, _ = stages(config, tmp_path)
    with few_descriptors(0), pytest.raises(UserError, match="too many open files") as caught:
        load_dataset(dataset.path)
    assert "damaged" not in str(caught.value) and "delete" not in str(caught.value)
    assert len(load_dataset(dataset.path).train) == len(dataset.train)


def test_a_file_replaced_while_it_is_closed_is_not_read_for_the_other(tmp_path: Path) -> None:
    files = OpenFiles(limit=1)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"first")
    other.write_bytes(b"second")
    assert files.read(one, 1, 3) == (b"irs", 5)
    assert files.read(other, 0, 100) == (b"second", 6)
    assert files.count == 1
    (tmp_path / "new").write_bytes(b"third")
    (tmp_path / "new").rename(one)
    with pytest.raises(UserError, match="was replaced by another"):
        files.read(one, 0, 1)
