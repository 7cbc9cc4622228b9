"""Parquet tokenized while training: flat buffers, positions, resuming, validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from llm.config import RunConfig, from_mapping
from llm.data.batches.streaming import StreamedBatches
from llm.data.text.parquet import RowGroups, StreamedCorpus
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import prepare
from llm.errors import ConfigError, UserError
from llm.tokenizer.byte import ByteTokenizer
from tests.draining import result_of
from tests.forking import complete_on_ranks

SEPARATOR = 256


def texts(first: int, count: int) -> list[str | None]:
    return [f"Text {n} of 海, {'and on ' * (n % 5)}end." if n % 7 else None for n in range(first, first + count)]


def write_shards(folder: Path, files: int = 3, rows: int = 40, group: int = 13) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"shard_{n}.parquet" for n in range(files)]
    for n, path in enumerate(paths):
        table = pa.table({"id": list(range(rows)), "text": texts(n * rows, rows)})
        parquet.write_table(table, path, row_group_size=group)
    return paths


def flat(documents: Sequence[str | None]) -> list[int]:
    """What the buffer must hold: each text's bytes after a separator."""
    return [token for text in documents if text for token in (SEPARATOR, *text.encode())]


def corpus_of(paths: Sequence[Path], hold_out: bool = False) -> StreamedCorpus:
    return StreamedCorpus("corpus", paths, "text", 0.2, hold_out)


def batches_of(text: RowGroups, rows: int = 4, seq_len: int = 11, **more: object) -> StreamedBatches:
    return StreamedBatches(
        text,
        ByteTokenizer(("<|bos|>",)),
        "before",
        rows=rows,
        seq_len=seq_len,
        **more,  # type: ignore[arg-type]
    )


def test_one_stream_is_the_corpus_as_one_flat_buffer(tmp_path: Path) -> None:
    text = corpus_of(write_shards(tmp_path)).train
    assert len(text.groups) == 12
    expected = flat(texts(0, 120)) * 3
    batches = batches_of(text)
    for i in range(2 * len(expected) // 3 // 44):  # twice round
        inputs, targets = batches.batch(i)
        assert inputs.ravel().tolist() == expected[i * 44 : (i + 1) * 44]
        assert targets.ravel().tolist() == expected[i * 44 + 1 : (i + 1) * 44 + 1], "no target is lost between batches"
        assert inputs.shape == targets.shape == (4, 11) and inputs.dtype == np.int64


def test_row_group_g_is_in_stream_g_mod_s(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    batches = batches_of(corpus_of(paths).train, rows=6, streams=3)
    groups = [table for path in paths for table in row_group_texts(path)]
    for i in range(5):
        inputs, _ = batches.batch(i)
        for stream in range(3):
            expected = flat([text for group in groups[stream::3] for text in group])
            assert inputs[2 * stream : 2 * stream + 2].ravel().tolist() == expected[i * 22 : (i + 1) * 22]


def row_group_texts(path: Path) -> list[list[str | None]]:
    with parquet.ParquetFile(path) as file:
        return [file.read_row_group(g).column("text").to_pylist() for g in range(file.num_row_groups)]


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_resumed_anywhere_the_batches_continue_exactly(tmp_path: Path, streams: int) -> None:
    text = corpus_of(write_shards(tmp_path)).train
    whole = batches_of(text, rows=10, seq_len=23, streams=streams)
    expected, cursors = [], [whole.cursor(0)]
    for i in range(60):
        expected.append(whole.batch(i))
        cursors.append(whole.cursor(i + 1))
    assert whole.cursor(50) == cursors[50], "what a prefetcher has run ahead of is still known"
    for start in (0, 1, 17, 59):
        again = batches_of(text, rows=10, seq_len=23, streams=streams, start=start, cursor=cursors[start])
        for i in range(start, 60):
            for one, other in zip(again.batch(i), expected[i], strict=True):
                assert np.array_equal(one, other)


def test_ranks_together_have_the_batch_and_each_reads_only_its_row_groups(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    text = corpus_of(paths).train
    whole = batches_of(text, rows=8, streams=4)
    ranks = [batches_of(text, rows=8, streams=4, rank=rank, ranks=2) for rank in range(2)]
    for i in range(6):
        expected = whole.batch(i)
        parts = [rank.batch(i) for rank in ranks]
        for side in range(2):
            assert np.array_equal(np.concatenate([part[side] for part in parts]), expected[side])
    assert [*ranks[0].cursor(6), *ranks[1].cursor(6)] == whole.cursor(6)
    rank = batches_of(text, rows=8, streams=4, rank=1, ranks=2, start=6, cursor=whole.cursor(6))
    assert np.array_equal(rank.batch(6)[0], whole.batch(6)[0][4:])


def test_batches_come_in_order(tmp_path: Path) -> None:
    batches = batches_of(corpus_of(write_shards(tmp_path)).train)
    with pytest.raises(ValueError, match="asked for batch 1, but 0 comes next"):
        batches.batch(1)


def test_streams_must_share_rows_ranks_and_row_groups(tmp_path: Path) -> None:
    text = corpus_of(write_shards(tmp_path)).train
    with pytest.raises(ConfigError, match=r"data\.streams: 3 does not divide the 4 rows"):
        batches_of(text, streams=3)
    with pytest.raises(ConfigError, match="not a multiple of the 2 processes; use a number"):
        batches_of(text, rows=9, streams=3, ranks=2)
    with pytest.raises(ConfigError, match="more than the 12 row groups"):
        batches_of(text, rows=13, streams=13)
    with pytest.raises(UserError, match="has no positions in the corpus"):
        batches_of(text, streams=1, cursor=[[0, 0], [1, 1]])


def test_streams_left_open_are_as_many_as_the_ranks_at_the_first_step(tmp_path: Path) -> None:
    text = corpus_of(write_shards(tmp_path)).train
    expected = batches_of(text, rows=8, streams=2)
    ranks = [batches_of(text, rows=8, rank=rank, ranks=2) for rank in range(2)]
    for i in range(3):
        together = np.concatenate([rank.batch(i)[0] for rank in ranks])
        assert np.array_equal(together, expected.batch(i)[0])
    cursor = [*ranks[0].cursor(3), *ranks[1].cursor(3)]
    alone = batches_of(text, rows=8, start=3, cursor=cursor)
    assert np.array_equal(alone.batch(3)[0], expected.batch(3)[0]), "one rank goes on with both streams"
    with pytest.raises(ConfigError, match=r"data\.streams: 2 is not a multiple of the 4 processes"):
        batches_of(text, rows=8, start=3, cursor=cursor, ranks=4)


def test_streams_that_ranks_cannot_share_are_reported_before_anything_is_prepared(tmp_path: Path) -> None:
    from llm.run import Run
    from llm.training.resume_checks import check_world_size

    write_shards(tmp_path / "shards")
    left_open = Run.create(tmp_path, "open", stream_config(str(tmp_path / "shards")))
    check_world_size(left_open.config(), tmp_path, 2, {})
    with pytest.raises(ConfigError, match="9 is more than the 8 row groups"):
        check_world_size(left_open.config(), tmp_path, 9, {})
    fixed = Run.create(tmp_path, "fixed", stream_config(str(tmp_path / "shards"), data={"streams": 1}))
    with pytest.raises(ConfigError, match=r"data\.streams: 1 is not a multiple of the 2 processes"):
        check_world_size(fixed.config(), tmp_path, 2, {})
    assert not (tmp_path / "data").exists()


def test_last_file_is_held_out_or_the_last_row_groups_of_a_single_one(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    several = corpus_of(paths, hold_out=True)
    assert {group.path for group in several.validation.groups} == {paths[-1]}
    assert {group.path for group in several.train.groups} == set(paths[:-1])
    single = corpus_of(paths[:1], hold_out=True)
    assert [group.number for group in single.validation.groups] == [3]
    (lone,) = write_shards(tmp_path / "lone", files=1, rows=5)
    with pytest.raises(UserError, match="has 1 row group"):
        corpus_of([lone], hold_out=True)


def test_no_text_at_all_is_an_error_not_a_loop(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    parquet.write_table(pa.table({"text": ["", None] * 5}), path, row_group_size=3)
    with pytest.raises(UserError, match="no text in the column 'text'"):
        batches_of(corpus_of([path]).train).batch(0)


def test_a_streamed_column_of_bytes_is_text_and_one_of_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    wanted = [text for text in texts(0, 40) if text]
    parquet.write_table(pa.table({"text": [text.encode() for text in wanted]}), path, row_group_size=7)
    inputs, _ = batches_of(corpus_of([path]).train).batch(0)
    assert inputs.ravel().tolist() == flat(wanted)[: inputs.size]
    parquet.write_table(pa.table({"text": list(range(40))}), path, row_group_size=7)
    with pytest.raises(UserError, match=r"The column 'text' of .*a\.parquet holds int64, not text"):
        corpus_of([path])


def stream_config(pattern: str, **tables: dict[str, object]) -> RunConfig:
    tiny: dict[str, dict[str, object]] = {
        "tokenizer": {"kind": "byte", "special_tokens": ["<|bos|>"]},
        "data": {"corpus": pattern, "order": "stream", "boundary": "before"},
        "model": {"n_layer": 1, "d_model": 12, "n_head": 2, "context": 16},
        "train": {"steps": 12, "batch_size": 2, "accumulation": 2, "device": "cpu", "precision": "fp32", "threads": 1},
        "evaluate": {"every": 5, "batches": 2},
        "checkpoint": {"every": 5, "keep": 0},
        "sample": {"every": 0},
    }
    return from_mapping({name: tiny.get(name, {}) | tables.get(name, {}) for name in tiny | tables})


def prepared(config: RunConfig, home: Path) -> Dataset:
    return result_of(prepare(config, home))


def test_prepared_stream_holds_validation_and_a_sample(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    dataset = prepared(stream_config(str(tmp_path / "shards/*.parquet")), tmp_path)
    assert dataset.stream is not None and len(dataset.stream.groups) == 8
    assert dataset.validation.read(0, len(dataset.validation)).tolist() == flat(texts(80, 40))
    assert dataset.train.read(0, 99).tolist() == flat(texts(0, 80))[:99]
    again = prepared(stream_config(str(tmp_path / "shards")), tmp_path)
    assert again.fingerprint == dataset.fingerprint, "however the files are named"
    write_shards(tmp_path / "shards", rows=41)
    assert prepared(stream_config(str(tmp_path / "shards")), tmp_path).fingerprint != dataset.fingerprint


def test_separate_validation_text_leaves_all_row_groups_for_training(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    (tmp_path / "valid.txt").write_text("Held out. " * 20)
    config = stream_config(str(tmp_path / "shards"), data={"validation": str(tmp_path / "valid.txt")})
    dataset = prepared(config, tmp_path)
    assert dataset.stream is not None and len(dataset.stream.groups) == 12
    assert dataset.tokenizer.decode(dataset.validation.read(0, len(dataset.validation)).tolist()) == "Held out. " * 20


def test_a_learned_tokenizer_reads_the_stream(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    tokenizer = {"kind": "bpe", "vocab_size": 300}
    dataset = prepared(stream_config(str(tmp_path / "shards"), tokenizer=tokenizer), tmp_path)
    assert 257 < dataset.tokenizer.vocab_size <= 300
    assert dataset.validation.bytes == sum(len(text.encode()) for text in texts(80, 40) if text)


def test_epochs_of_a_stream_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    config = stream_config(str(tmp_path / "shards"))
    config = replace(config, train=replace(config.train, steps=0, epochs=1.5))
    with pytest.raises(ConfigError, match=r"train\.epochs: .*set train\.tokens"):
        prepared(config, tmp_path)


def test_other_files_in_stream_order_are_one_flat_buffer(tmp_path: Path) -> None:
    from llm.data.batches.source import batch_source

    path = tmp_path / "text.txt"
    path.write_text("".join(f"Line {n}.\n" for n in range(900)))
    config = stream_config(str(path))
    dataset = prepared(config, tmp_path)
    source = batch_source(dataset, config, rows=3, seq_len=16)
    assert source.batch(0)[0].ravel().tolist() == dataset.train.read(0, 48).tolist()
    assert source.batch(1)[0].ravel().tolist() == dataset.train.read(48, 96).tolist()
    assert source.cursor(1) is None


def test_an_interrupted_run_on_a_stream_ends_like_a_whole_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from llm.run import Command, Run
    from llm.training.commands import CommandQueue
    from llm.training.run import run_training

    class StopAfter(CommandQueue):
        def __init__(self, looks: int) -> None:
            super().__init__()
            self.looks = looks

        def poll(self) -> None:
            super().poll()
            self.looks -= 1
            if self.looks == 0:
                self.waiting.append(Command("stop", "test"))

    write_shards(tmp_path / "shards", rows=20, group=5)
    config = stream_config(str(tmp_path / "shards"), data={"streams": 2})
    whole, parts = (Run.create(tmp_path, name, config) for name in ("whole", "parts"))
    assert run_training(whole, tmp_path).status == "finished"
    stops = 0
    while run_training(parts, tmp_path, commands=StopAfter(7)).status == "stopped":
        stops += 1
    assert stops >= 2
    one, other = (load_file(run.checkpoint().path / "model.safetensors") for run in (whole, parts))
    assert all(one[name].equal(other[name]) for name in one)


def test_two_ranks_on_a_stream_train_as_one_and_one_continues_where_they_stopped(tmp_path: Path) -> None:
    """Two processes, each reading row groups of its own; then the run is resumed by one."""
    from llm.events import StepLogged
    from llm.run import Run
    from llm.training.run import run_training

    write_shards(tmp_path / "shards", rows=20, group=5)
    train = {"batch_size": 2, "accumulation": 1, "total_batch_tokens": 4 * 16, "steps": 6, "log_every": 1}
    config = stream_config(
        str(tmp_path / "shards"),
        train=train | {"device": "cpu", "precision": "fp32", "threads": 1},
        schedule={"kind": "constant"},
    )
    two = replace(config, data=replace(config.data, streams=2))  # what two ranks make of it when that is left open
    alone, together = Run.create(tmp_path, "alone", two), Run.create(tmp_path, "together", config)
    for ended in complete_on_ranks(2, str(together.path)):
        assert ended.returncode == 0, ended.stderr
    run_training(alone, tmp_path)
    longer = (("train.steps", "15"),)
    for run in (alone, together):
        run_training(run, tmp_path, overrides=longer)
    curves = [[event.loss for event in run.events() if isinstance(event, StepLogged)] for run in (alone, together)]
    assert len(curves[0]) == 15
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
