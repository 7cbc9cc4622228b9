"""Token files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.tokens.shards import Shard, ShardedTokens, ShardWriter, dtype_for
from llm.errors import UserError


def written(folder: Path, ids: list[int], vocab_size: int = 1000, shard_tokens: int = 7) -> list[Path]:
    writer = ShardWriter(folder, "train", vocab_size=vocab_size, vocabulary="v", shard_tokens=shard_tokens)
    for start in range(0, len(ids), 5):
        writer.write(ids[start : start + 5])
    writer.close()
    return [folder / f"{name}.bin" for name in writer.names]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=60), st.data())
def test_reads_back_any_range_across_shards(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], data: st.DataObject
) -> None:
    paths = written(tmp_path_factory.mktemp("shards"), ids)
    tokens = ShardedTokens("training", paths, 0)
    for path in paths:
        Shard(path).verify()
    assert len(tokens) == len(ids)
    assert len(paths) == -(-len(ids) // 7)
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    assert tokens.read(start, stop).tolist() == ids[start:stop]
    assert tokens.read(start, stop).dtype == tokens.dtype


def test_files_are_little_endian_and_described(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [1, 258, 3])
    assert path.read_bytes() == b"\x01\x00\x02\x01\x03\x00"
    header = json.loads(path.with_suffix(".json").read_text())
    assert (header["count"], header["dtype"], header["vocab_size"], header["vocabulary"]) == (3, "uint16", 1000, "v")


def test_dtype_follows_the_vocabulary(tmp_path: Path) -> None:
    assert dtype_for(65536) == np.dtype("<u2")
    assert dtype_for(65537) == np.dtype("<u4")
    (path,) = written(tmp_path, [65536, 7], vocab_size=65537)
    Shard(path).verify()
    assert ShardedTokens("x", [path], 0).read(0, 2).tolist() == [65536, 7]


def test_outside_is_an_error_never_a_short_answer(tmp_path: Path) -> None:
    tokens = ShardedTokens("training", written(tmp_path, list(range(9))), 0)
    for start, stop in ((0, 10), (-1, 3), (5, 4), (9, 11)):
        with pytest.raises(IndexError):
            tokens.read(start, stop)


@pytest.mark.parametrize("wrong", [1000, -1])
def test_id_outside_the_vocabulary_is_refused_when_written(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(UserError, match=rf"train-00001.bin holds the id {wrong} at offset 2, .* ends at 999"):
        written(tmp_path, [*range(9), wrong, 5])


def test_id_outside_the_vocabulary_is_found_when_verified(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [1, 2, 3])
    path.write_bytes(b"\x01\x00\xff\xff\x03\x00")
    with pytest.raises(UserError, match=r"train-00000.bin holds the id 65535 at offset 1"):
        Shard(path).verify()


def test_flipped_bit_is_found_when_verified(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [1, 2, 3])
    path.write_bytes(b"\x01\x00\x02\x00\x02\x00")
    Shard(path)
    with pytest.raises(UserError, match="differs from what was written"):
        Shard(path).verify()


@pytest.mark.parametrize(
    ("content", "size"), [(b"", "0"), (b"\x01", "1"), (b"\x01\x00\x02\x00\x03", "5"), (b"1" * 8, "8")]
)
def test_empty_odd_and_short_files_are_refused_with_lengths(tmp_path: Path, content: bytes, size: str) -> None:
    (path,) = written(tmp_path, [1, 2, 3])
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"train-00000.bin has {size} bytes where its header promises 6"):
        Shard(path)


def test_file_cut_while_mapped_fails_cleanly(tmp_path: Path) -> None:
    paths = written(tmp_path, list(range(500)) * 40, shard_tokens=10**6)
    tokens = ShardedTokens("training", paths, 0)
    with paths[0].open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"train-00000.bin has 100 bytes"):
        tokens.read(15000, 15010)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "x"},
        {"count": 0},
        {"count": -3},
        {"dtype": "uint32"},
        {"vocab_size": 10**6},
        {"sha256": None},
    ],
)
def test_wrong_headers_are_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    (path,) = written(tmp_path, [1, 2, 3])
    header = path.with_suffix(".json")
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    with pytest.raises(UserError, match=r"train-00000.json|differs"):
        Shard(path).verify()


def test_missing_and_damaged_headers(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [1, 2, 3])
    path.with_suffix(".json").write_text('{"count":')
    with pytest.raises(UserError, match="damaged"):
        Shard(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        Shard(path)


def test_shards_of_different_tokenizers_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (one,) = written(tmp_path, [1, 2, 3])
    (other,) = written(tmp_path / "other", [1, 2, 3], vocab_size=70_000)
    with pytest.raises(UserError, match="different tokenizers"):
        ShardedTokens("training", [one, other], 0)
