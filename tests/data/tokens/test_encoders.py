"""Tokenizing in processes: the same ids in the same order as without."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm.config import RunConfig, from_mapping
from llm.data.tokens import encoders, tokenize
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.encoders import ProcessEncoder, SerialEncoder, make_encoder
from llm.data.tokens.prepare import prepare
from llm.errors import UserError
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.tokenizer.char import CharTokenizer
from tests.draining import result_of

TEXTS = [f"Text {n}: 海 and the sea.\n" * (n % 7) for n in range(40)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    config = from_mapping({"tokenizer": {"kind": "bpe", "vocab_size": 320}})
    tokenizer = build_tokenizer(config.tokenizer, TEXTS)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return tokenizer, folder


def test_batches_come_back_in_order(saved: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = saved
    encoder = ProcessEncoder(folder, 3)
    batches = [TEXTS[n : n + 5] for n in range(0, 40, 5)] + [[], [""], ["\ud800 alone"]]
    promises = []
    found = []
    for batch in batches:
        promises.append(encoder.submit(batch))
        if len(promises) > encoder.depth:
            found.append(promises.pop(0)())
    found += [promise() for promise in promises]
    encoder.close()
    serial = SerialEncoder(tokenizer)
    for batch, ids in zip(batches, found, strict=True):
        expected = serial.submit(batch)()
        assert [part.tolist() for part in ids] == [part.tolist() for part in expected]
        assert all(part.dtype == np.uint32 for part in ids)


def test_all_batches_that_may_be_pending_are_taken_before_any_result(saved: tuple[Tokenizer, Path]) -> None:
    encoder = ProcessEncoder(saved[1], 2)
    larger_than_a_pipe = ["A long text. " * 50_000]
    promises = [encoder.submit(larger_than_a_pipe) for _ in range(encoder.depth + 1)]
    assert len(promises) == 4
    (expected,) = saved[0].encode_batch(larger_than_a_pipe)
    for promise in promises:
        (ids,) = promise()
        assert np.array_equal(ids, expected)
    encoder.close()


def test_an_error_comes_back_and_a_lost_process_is_reported(tmp_path: Path) -> None:
    CharTokenizer.train(["abc"], ()).save(tmp_path)
    before = set(multiprocessing.active_children())
    encoder = ProcessEncoder(tmp_path, 2)
    with pytest.raises((TypeError, AttributeError)):
        encoder.submit([5])()  # type: ignore[list-item]
    assert encoder.submit(["cab"])()[0].tolist() == [2, 0, 1]
    for process in set(multiprocessing.active_children()) - before:
        process.kill()
        process.join()
    with pytest.raises(UserError, match=r"exited early.*data\.processes"):
        encoder.submit(["abc"])()
    encoder.close()


def test_closing_ends_processes_that_are_at_work(saved: tuple[Tokenizer, Path]) -> None:
    before = set(multiprocessing.active_children())
    encoder = ProcessEncoder(saved[1], 2)
    processes = [process.pid for process in set(multiprocessing.active_children()) - before]
    assert len(processes) == 2
    encoder.submit(TEXTS)
    began = time.monotonic()
    encoder.close()
    assert time.monotonic() - began < 20
    assert all(not Path(f"/proc/{pid}").exists() for pid in processes)


def test_small_corpora_and_single_cores_get_none(
    saved: tuple[Tokenizer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "usable_cores", lambda: 1)
    assert isinstance(make_encoder(*saved, size_bytes=1 << 40, processes=0), SerialEncoder)
    monkeypatch.setattr(encoders, "usable_cores", lambda: 64)
    assert isinstance(make_encoder(*saved, size_bytes=1000, processes=0), SerialEncoder)
    assert isinstance(make_encoder(*saved, size_bytes=1 << 40, processes=1), SerialEncoder)


def config(corpus: Path, processes: int, **data: object) -> RunConfig:
    return from_mapping(
        {
            "tokenizer": {"kind": "bpe", "vocab_size": 320},
            "data": {"corpus": str(corpus), "processes": processes, "boundary": "before", **data},
            "model": {"context": 8},
        }
    )


def prepared(config: RunConfig, home: Path) -> Dataset:
    return result_of(prepare(config, home))


@pytest.mark.parametrize("split", ["documents", "tail"])
def test_prepared_in_processes_and_without_are_the_same_files(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "BATCH_CHARACTERS", 2000)
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / f"texts/{number}.txt").write_text("<|endoftext|>".join(TEXTS[number * 6 : number * 6 + 7]))
    sides = [prepared(config(tmp_path / "texts", n, split=split), tmp_path / str(n)) for n in (1, 3)]
    assert sides[0].fingerprint == sides[1].fingerprint
    for name in ("train-00000.bin", "validation-00000.bin", "validation.txt"):
        assert (sides[0].path / name).read_bytes() == (sides[1].path / name).read_bytes(), name
    one, other = (json.loads((side.path / "dataset.json").read_bytes())["splits"] for side in sides)
    assert one == other


def test_stopping_meanwhile_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ProcessEncoder] = []

    class Noted(ProcessEncoder):
        def __init__(self, saved: Path, count: int) -> None:
            super().__init__(saved, count)
            made.append(self)

        def close(self) -> None:
            super().close()
            made.remove(self)

    monkeypatch.setattr(encoders, "ProcessEncoder", Noted)
    monkeypatch.setattr(tokenize, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(tokenize, "REPORT_SECONDS", 0.0)
    path = tmp_path / "text.txt"
    path.write_text("".join(TEXTS) * 20)
    steps: Iterator[object] = prepare(config(path, 2), tmp_path)
    for event in steps:
        if getattr(event, "stage", "") == "Tokenizing":
            break
    assert len(made) == 1
    steps.close()  # type: ignore[attr-defined]
    assert made == []
    assert not [item for item in (tmp_path / "data").iterdir() if item.is_dir()]
