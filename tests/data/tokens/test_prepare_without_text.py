"""Tokens that were prepared stay usable when their text is gone; text that holds nothing is refused as that."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.config.schema import DataConfig, ModelConfig, RunConfig, TokenizerConfig
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import find_tokenized_dataset, prepare
from llm.errors import UserError
from tests.draining import result_of

LINES = "".join(f"Line {number}: the fox said {number * 7}.\n" for number in range(2000))


def config(corpus: Path, kind: Any = "byte", **data: Any) -> RunConfig:
    return replace(
        RunConfig(),
        data=DataConfig(corpus=str(corpus), **data),
        tokenizer=TokenizerConfig(kind=kind),
        model=replace(ModelConfig(), context=16),
    )


def prepared(config: RunConfig, home: Path) -> Dataset:
    return result_of(prepare(config, home))


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_prepared_tokens_are_used_where_their_text_is_gone(tmp_path: Path, kind: str) -> None:
    text = tmp_path / "texts" / "a.txt"
    text.parent.mkdir()
    text.write_text(LINES)
    wanted, home = config(text.parent, kind), tmp_path / "home"
    first = prepared(wanted, home)
    assert first.warnings == ()
    for remove in (lambda: text.unlink(), lambda: text.parent.rmdir()):
        remove()
        again = prepared(wanted, home)
        assert (again.path, again.fingerprint) == (first.path, first.fingerprint)
        assert "is missing; the dataset tokenized from it earlier is used" in again.warnings[-1]
        found, tokenizer = find_tokenized_dataset(wanted, home)
        assert found is not None
        assert found.fingerprint == first.fingerprint
        assert tokenizer is not None


def test_the_newest_is_used_and_other_settings_are_not(tmp_path: Path) -> None:
    text, home = tmp_path / "a.txt", tmp_path / "home"
    text.write_text(LINES)
    prepared(config(text), home)
    text.write_text(LINES + "More.\n")
    newest = prepared(config(text), home)
    text.unlink()
    assert prepared(config(text), home).fingerprint == newest.fingerprint
    other = replace(config(text), data=replace(config(text).data, order="epoch", processes=1))
    assert prepared(other, home).fingerprint == newest.fingerprint, "what does not decide the tokens may differ"
    others = (config(text, "char"), config(text, split="tail"), config(tmp_path / "b"), config(text, order="stream"))
    for unknown in others:
        with pytest.raises(UserError, match="There is no corpus"):
            prepared(unknown, home)


def test_a_data_set_that_was_deleted_after_it_was_prepared(tmp_path: Path) -> None:
    from llm.data.text.datasets import dataset_folder, find_dataset, write_record

    dataset = find_dataset("tinyshakespeare")
    folder = dataset_folder(dataset, tmp_path)
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text(LINES)
    here, source = {"size": len(LINES), "sha256": ""}, {"url": "", "sha256": ""}
    write_record(dataset, tmp_path, {"files": {"input.txt": here}, "sources": {"input.txt": source}})
    wanted = config(Path("tinyshakespeare"))
    first = prepared(wanted, tmp_path)
    shutil.rmtree(folder)
    assert prepared(wanted, tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_rows_that_are_all_null_hold_no_text(tmp_path: Path, kind: str) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    nulls = [None] * 300
    parquet.write_table(arrow.table({"text": arrow.array(nulls, "string")}), tmp_path / "a.parquet")
    parquet.write_table(arrow.table({"text": nulls}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"text": null}\n' * 300)
    for name in ("a.parquet", "b.parquet", "c.jsonl"):
        with pytest.raises(UserError, match=rf"{name} holds no text \(.*skipped 300 rows without text"):
            prepared(config(tmp_path / name, kind), tmp_path / "home")


def test_the_log_and_the_index_say_what_was_skipped(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(LINES)
    (folder / "b.png").write_bytes(b"\x89PNG\0")
    dataset = prepared(config(folder), tmp_path / "home")
    assert "1 file or folder skipped (it holds NUL bytes)" in dataset.warnings[0]
    assert json.loads((dataset.path / "dataset.json").read_text())["warnings"] == list(dataset.warnings)
