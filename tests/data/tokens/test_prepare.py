"""From a configuration to a dataset in the cache."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.config.schema import RunConfig
from llm.data.text.validation_split import Spread, blocks
from llm.data.tokens.dataset import Dataset, load_dataset
from llm.data.tokens.prepare import prepare
from llm.data.tokens.shards import TokenSplit
from llm.data.tokens.staging import make_locked_folder
from llm.errors import UserError
from llm.events import Progress

LINES = "".join(f"Line {n} of the text, with 海 in it.\n" for n in range(3000))


def config(
    corpus: Path | str, kind: str = "byte", context: int = 16, specials: tuple[str, ...] = (), **data: Any
) -> RunConfig:
    base = RunConfig()
    return replace(
        base,
        data=replace(base.data, corpus=str(corpus), **data),
        tokenizer=replace(base.tokenizer, kind=kind, vocab_size=300, special_tokens=specials),
        model=replace(base.model, context=context),
    )


def prepared(config: RunConfig, home: Path) -> tuple[Dataset, list[Progress]]:
    seen: list[Progress] = []
    generator = prepare(config, home)
    while True:
        try:
            seen.append(next(generator))
        except StopIteration as end:
            return end.value, seen


def text_of(dataset: Dataset, split: TokenSplit) -> str:
    return dataset.tokenizer.decode(split.read(0, len(split)).tolist())


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_both_sides_together_are_the_text(text_file: Path, tmp_path: Path, kind: str) -> None:
    dataset, _ = prepared(config(text_file, kind), tmp_path)
    train, held_out = (text_of(dataset, split).splitlines() for split in (dataset.train, dataset.validation))
    assert sorted(train + held_out) == sorted(LINES.splitlines())
    assert train == [line for line in LINES.splitlines() if line in set(train)]  # in order
    assert dataset.train.bytes + dataset.validation.bytes == len(LINES.encode())
    assert 0.03 < dataset.validation.bytes / len(LINES.encode()) < 0.07
    assert dataset.validation_text.read_text(encoding="utf-8") == text_of(dataset, dataset.validation)
    assert dataset.validation_text.stat().st_size == dataset.validation.bytes


def test_blocks_held_out_are_spread_over_a_single_text(text_file: Path, tmp_path: Path) -> None:
    dataset, _ = prepared(config(text_file, validation_fraction=0.1), tmp_path)
    numbers = [int(line.split()[1]) for line in text_of(dataset, dataset.validation).splitlines()]
    assert min(numbers) < 400
    assert max(numbers) > 2600
    assert sum(1 for a, b in pairwise(numbers) if b != a + 1) >= 5


def test_tail_is_the_last_characters(text_file: Path, tmp_path: Path) -> None:
    dataset, _ = prepared(config(text_file, "char", split="tail", validation_fraction=0.1), tmp_path)
    cut = int(0.9 * len(LINES))
    assert text_of(dataset, dataset.train) == LINES[:cut]
    assert text_of(dataset, dataset.validation) == LINES[cut:]


def test_whole_documents_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    documents = [f"Document {n}. " + "x" * (n * 7919 % 97) for n in range(1000)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    dataset, _ = prepared(config(path, specials=("<|endoftext|>",)), tmp_path)
    separator = dataset.tokenizer.separator
    sides = [split.read(0, len(split)) for split in (dataset.train, dataset.validation)]
    found = []
    for ids in sides:
        assert ids[-1] == separator
        ends = np.flatnonzero(ids == separator)
        found.append(
            [dataset.tokenizer.decode(part[part != separator].tolist()) for part in np.split(ids, ends + 1)[:-1]]
        )
    assert sorted(found[0] + found[1]) == sorted(documents)
    assert 35 <= len(found[1]) <= 65
    places = [documents.index(text) for text in found[1]]
    assert max(np.diff(places)) < 80
    assert dataset.validation.bytes == sum(map(len, found[1]))  # separators count none


@pytest.mark.parametrize(("boundary", "expected"), [("after", "AA.AA."), ("before", ".AA.AA"), ("none", "AAAA")])
def test_boundary(tmp_path: Path, boundary: str, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": letter * 2}) + "\n" for letter in "A" * 200))
    dataset, _ = prepared(
        config(path, specials=("<s>",), boundary=boundary, context=4, validation_fraction=0.1), tmp_path
    )
    start = dataset.train.read(0, len(expected)).tolist()
    assert "".join("." if i == dataset.tokenizer.separator else chr(i) for i in start) == expected


def test_streamed_text_gives_the_tokens_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm.data.text import text_files

    path = tmp_path / "text.txt"
    path.write_text(LINES, encoding="utf-8")
    monkeypatch.setattr(text_files, "PIECE_BYTES", 1000)
    dataset, _ = prepared(config(path, "bpe", split="tail"), tmp_path)
    whole = dataset.tokenizer.encode(LINES[: int(0.95 * len(LINES))])
    assert dataset.train.read(0, len(dataset.train)).tolist() == whole


def test_second_time_is_the_cache(text_file: Path, tmp_path: Path) -> None:
    first, seen = prepared(config(text_file, "bpe"), tmp_path)
    stages = ["Reading the corpus", "Reading text for the tokenizer", "Training the tokenizer", "Tokenizing"]
    assert list(dict.fromkeys(event.stage for event in seen)) == stages
    assert all(event.done <= event.total for event in seen)
    stamp = (first.path / "dataset.json").stat().st_mtime_ns
    second, seen = prepared(config(text_file, "bpe"), tmp_path)
    assert {event.stage for event in seen} == {"Reading the corpus"}
    assert second.path == first.path
    assert (second.path / "dataset.json").stat().st_mtime_ns == stamp
    assert second.fingerprint == first.fingerprint == first.path.name


def test_what_changes_the_tokens_changes_the_fingerprint(text_file: Path, tmp_path: Path) -> None:
    base = config(text_file)
    variants = [
        base,
        config(text_file, "char"),
        config(text_file, specials=("<s>",)),
        config(text_file, split="tail"),
        config(text_file, validation_fraction=0.06),
        config(text_file, boundary="none"),
    ]
    fingerprints = [prepared(variant, tmp_path)[0].fingerprint for variant in variants]
    text_file.write_text(LINES + "More.\n", encoding="utf-8")
    fingerprints.append(prepared(base, tmp_path)[0].fingerprint)
    assert len(set(fingerprints)) == 7
    other_order = replace(base, data=replace(base.data, order="epoch"))
    assert prepared(other_order, tmp_path)[0].fingerprint == fingerprints[-1]


def test_too_short_texts_are_refused_before_step_0(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time.\n" * 30)
    with pytest.raises(UserError, match=r"validation text is .* tokens long, too short for one window of 500 tokens"):
        prepared(config(path, context=500), tmp_path)
    path.write_text("Hi.")
    with pytest.raises(UserError, match=r"3 bytes\) is too short to split off"):
        prepared(config(path), tmp_path)
    assert [entry.name for entry in (tmp_path / "data").iterdir() if entry.name.startswith(".")] == []


def test_closing_the_generator_leaves_nothing_behind(text_file: Path, tmp_path: Path) -> None:
    generator = prepare(config(text_file, "bpe"), tmp_path)
    while next(generator).stage != "Training the tokenizer":
        pass
    generator.close()
    assert list((tmp_path / "data").iterdir()) == []


def test_leftovers_are_removed_but_never_a_live_one(text_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "data" / "abc"
    target.parent.mkdir()
    live, lock = make_locked_folder(target)
    dead, dead_lock = make_locked_folder(target)
    (dead / "train-00000.bin").write_bytes(b"x")
    os.close(dead_lock)  # as when its process dies
    prepared(config(text_file), tmp_path)
    assert live.exists()
    assert not dead.exists()
    os.close(lock)


def test_two_processes_at_once(text_file: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=prepare_at, args=(str(text_file), str(tmp_path))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    (folder,) = (tmp_path / "data").iterdir()
    assert load_dataset(folder).train.bytes > 0


def prepare_at(text_file: str, home: str) -> None:
    prepared(config(text_file), Path(home))


def test_publishing_second_keeps_the_first(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found nothing in the cache; the other one finishes while this one still writes."""
    from llm.data.tokens import prepare as module

    make = module.make_from_text

    def overtaken(*arguments: Any) -> Generator[Progress, None, dict[str, Any]]:
        monkeypatch.setattr(module, "make_from_text", make)
        first.append(prepared(config(text_file), tmp_path)[0].path.stat().st_ino)
        return (yield from make(*arguments))

    first: list[int] = []
    monkeypatch.setattr(module, "make_from_text", overtaken)
    dataset, _ = prepared(config(text_file), tmp_path)
    assert dataset.path.stat().st_ino == first[0]
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_damaged_cache_is_named(text_file: Path, tmp_path: Path) -> None:
    dataset, _ = prepared(config(text_file), tmp_path)
    (dataset.path / "train-00000.bin").write_bytes(b"123")
    with pytest.raises(UserError, match=r"train-00000.bin has 3 bytes .* delete the folder"):
        prepared(config(text_file), tmp_path)
    (dataset.path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="damaged; delete that folder"):
        prepared(config(text_file), tmp_path)


def test_home_that_cannot_be_written_is_a_plain_error(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be prepared in .*data"):
        prepared(config(text_file), tmp_path)


def test_warnings_are_kept_with_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9 and more text\n" * 100)
    prepared(config(path, context=4), tmp_path)
    assert "100 bytes" in prepared(config(path, context=4), tmp_path)[0].warnings[0]


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.37, 0.5, 1 / 3])
def test_spread_takes_its_share_evenly_and_without_a_period(fraction: float) -> None:
    spread = Spread(fraction)
    taken = [n for n in range(2000) if spread.choose_next()]
    assert abs(len(taken) - 2000 * fraction) <= 1
    assert max(np.diff(taken)) <= 2 / fraction + 1
    assert len({int(distance) for distance in np.diff(taken)}) > 1
    assert 900 < np.mean(taken) < 1100


@pytest.mark.parametrize("text", ["ab cd\n" * 500, "word " * 500, "海" * 3000, "\n" * 700, "x", ""])
def test_blocks_are_bounded_and_end_with_lines_where_there_are_lines(text: str) -> None:
    for size in (1, 7, 64):
        found = list(blocks([text[n : n + 100] for n in range(0, len(text), 100)], size))
        assert "".join(found) == text
        assert all(0 < len(block) <= 4 * size + 1 for block in found)
        assert all(len(block) >= size for block in found[:-1])
        if text.startswith("ab") and size > 6:
            assert all(block.endswith("\n") for block in found)
