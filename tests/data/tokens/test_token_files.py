"""Token files of other programs, as they write them, and the lecture's chunks as we write them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import RunConfig, from_mapping
from llm.data.tokens.dataset import Dataset, load_dataset
from llm.data.tokens.prepare import prepare
from llm.data.tokens.shards import ShardWriter
from llm.data.tokens.token_files import ChunkWriter, TokenFile, join_token_files
from llm.data.tokens.token_paths import is_token_corpus, token_paths
from llm.errors import ConfigError, UserError
from tests.draining import result_of

IDS = np.array([7, 0, 255, 11, 256, 3, 99, 100, 101, 102, 103])


def save(path: Path, kind: str, ids: np.ndarray = IDS) -> Path:
    """A file exactly as the program of that kind writes it."""
    if kind == "npy":
        np.save(path.with_suffix(".npy"), ids.astype(np.uint16))
        return path.with_suffix(".npy")
    if kind == "npy-int64":
        np.save(path.with_suffix(".npy"), ids.astype(">i8"))
        return path.with_suffix(".npy")
    path = path.with_suffix(".bin")
    if kind == "bin":
        ids.astype(np.uint16).tofile(path)
    elif kind == "header":
        header = np.zeros(256, dtype=np.int32)
        header[:3] = 20240520, 1, len(ids)
        path.write_bytes(header.tobytes() + ids.astype(np.uint16).tobytes())
    else:
        writer = ShardWriter(path.parent, path.stem, vocab_size=70_000, vocabulary="v")
        writer.write(ids)
        writer.close()
        path = path.parent / f"{writer.names[0]}.bin"
    return path


def lecture_chunks(folder: Path, ids: np.ndarray, size: int) -> Path:
    """As `save_by_chunks` of the lecture writes them."""
    folder.mkdir()
    for k, start in enumerate(range(0, len(ids), size)):
        part = ids[start : start + size]
        chunk = np.memmap(folder / f"encoded_tokens_chunk_{k}.dat", dtype=np.int32, mode="w+", shape=(len(part),))
        chunk[:] = part
        chunk.flush()
    return folder


@pytest.mark.parametrize("kind", ["npy", "npy-int64", "bin", "header", "own"])
def test_every_kind_is_recognized_and_read(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "train", kind)
    file = TokenFile(path, 257)
    assert len(file) == len(IDS)
    assert file.read(0, len(IDS)).tolist() == IDS.tolist()
    assert file.read(3, 7).tolist() == IDS[3:7].tolist()
    assert file.read(3, 7).dtype == np.dtype("<u2")
    assert is_token_corpus(from_mapping({"data": {"corpus": str(path)}}).data)


@pytest.mark.parametrize("name", ["train.bin", "encoded_tokens_chunk_0.dat"])
def test_a_large_file_is_mapped_and_never_read_whole(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 28)  # sparse: it takes no room on the disk
    tracemalloc.start()
    try:
        assert join_token_files("training", [tmp_path / name], 1000, 0).read(10**7, 10**7 + 5).tolist() == [0] * 5
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 60), size=st.integers(1, 13), data=st.data())
def test_chunks_are_read_back_by_any_range(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int, data: st.DataObject
) -> None:
    ids = np.arange(count) * 3
    folder = lecture_chunks(tmp_path_factory.mktemp("lecture") / "5M_chunks", ids, size)
    tokens = join_token_files("training", token_paths(str(folder), "data.corpus"), 1000, 0)
    assert len(tokens) == count
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    assert tokens.read(start, stop).tolist() == ids[start:stop].tolist()
    with pytest.raises(IndexError):
        tokens.read(start, count + 1)


def test_a_range_that_ends_at_a_border_touches_no_further_chunk(tmp_path: Path) -> None:
    """The lecture's own reader opens chunk end // size even when nothing of it is wanted, and there may be none."""
    folder = lecture_chunks(tmp_path / "chunks", np.arange(20), 10)
    tokens = join_token_files("training", token_paths(str(folder), "data.corpus"), 1000, 0)
    assert tokens.read(10, 20).tolist() == list(range(10, 20))
    with (folder / "encoded_tokens_chunk_1.dat").open("r+b") as file:
        file.truncate(4)
    assert tokens.read(0, 10).tolist() == list(range(10))
    with pytest.raises(UserError, match=r"chunk_1\.dat shrank from 40 to 4 bytes"):
        tokens.read(0, 11)


def test_more_than_ten_chunks_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = lecture_chunks(tmp_path / "chunks", np.arange(25), 2)
    tokens = join_token_files("training", token_paths(str(folder), "data.corpus"), 1000, 0)
    assert tokens.read(0, 25).tolist() == list(range(25))


def test_written_chunks_are_the_lectures_byte_for_byte(tmp_path: Path) -> None:
    ids = np.arange(23) * 7
    folder = lecture_chunks(tmp_path / "theirs", ids, 10)
    writer = ChunkWriter(tmp_path / "ours", vocab_size=1000, vocabulary="v", shard_tokens=10)
    for start in range(0, 23, 4):
        writer.write(ids[start : start + 4])
    writer.close()
    theirs, ours = ({path.name: path.read_bytes() for path in part.iterdir()} for part in (folder, tmp_path / "ours"))
    assert ours == theirs
    assert writer.total == 23


def test_missing_and_short_chunks_are_named(tmp_path: Path) -> None:
    folder = lecture_chunks(tmp_path / "chunks", np.arange(35), 10)
    with (folder / "encoded_tokens_chunk_2.dat").open("r+b") as file:
        file.truncate(36)
    with pytest.raises(UserError, match=r"chunk_2\.dat has 36 bytes where chunk 0 has 40"):
        token_paths(str(folder), "data.corpus")
    (folder / "encoded_tokens_chunk_1.dat").unlink()
    with pytest.raises(UserError, match=r"lacks encoded_tokens_chunk_1\.dat"):
        token_paths(str(folder), "data.corpus")


@pytest.mark.parametrize(
    ("kind", "cut", "words"),
    [
        ("bin", 0, r"train.bin is empty"),
        ("bin", 7, r"train.bin has 7 bytes, 1 more than 3 tokens of 2 bytes"),
        ("header", 1030, r"train.bin has 1,030 bytes where its header promises 1,046 \(11 tokens of 2 bytes\)"),
        ("npy", 140, r"train.npy has 140 bytes where its header promises 150 \(11 tokens of 2 bytes\)"),
        ("npy", 50, r"train.npy is not a .npy file"),
        ("npy", 0, r"train.npy is empty"),
        ("own", 9, r"train-00000.bin has 9 bytes where its header promises 44 \(11 tokens of 4 bytes\)"),
    ],
)
def test_empty_odd_and_short_files_are_refused_by_name_with_lengths(
    tmp_path: Path, kind: str, cut: int, words: str
) -> None:
    path = save(tmp_path / "train", kind)
    with path.open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(UserError, match=words):
        TokenFile(path, 70_000)


@pytest.mark.parametrize("array", [np.zeros((3, 4), dtype=np.int64), np.zeros(9), np.array([], dtype=np.int32)])
def test_arrays_that_are_not_one_row_of_ids(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=r"x\.npy"):
        TokenFile(tmp_path / "x.npy", 257)


@pytest.mark.parametrize(
    "header",
    [
        "{}{}{",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (3",
        "{'descr': ('<u2',), 'fortran_order': False, 'shape': (3,)}",
        "{1: 2, 'shape': (3,)}",
        "{[]: 1}",
        "-" * 9000 + "1",
    ],
)
def test_a_garbled_npy_header_is_named(tmp_path: Path, header: str) -> None:
    raw = header.encode()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw)
    with pytest.raises(UserError, match=r"x\.npy is not a \.npy file"):
        TokenFile(tmp_path / "x.npy", 257)


def test_objects_in_npy_files_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not one row of token ids"):
        TokenFile(tmp_path / "x.npy", 257)


def test_other_header_versions_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "train", "header")
    path.write_bytes(np.array([20240520, 2], dtype=np.int32).tobytes() + path.read_bytes()[8:])
    with pytest.raises(UserError, match="has header version 2"):
        TokenFile(path, 70_000)


# --- as corpora


def config(corpus: Path, validation: Path | str = "", **data: Any) -> RunConfig:
    return from_mapping(
        {
            "tokenizer": {"kind": "byte"},
            "data": {"corpus": str(corpus), "validation": str(validation), **data},
            "model": {"context": 4},
        }
    )


def prepared(config: RunConfig, home: Path) -> Dataset:
    return result_of(prepare(config, home))


def test_separate_training_and_validation_files(tmp_path: Path) -> None:
    text = "Ein Text, der zum Lernen da ist. "
    train, valid = np.frombuffer(text.encode() * 9, np.uint8), np.frombuffer(b"and one to test it", np.uint8)
    paths = save(tmp_path / "train", "npy", train), save(tmp_path / "valid", "npy", valid)
    dataset = prepared(config(*paths), tmp_path)
    assert dataset.train.read(0, len(train)).tolist() == train.tolist()
    assert dataset.validation.read(0, len(valid)).tolist() == valid.tolist()
    assert (dataset.train.bytes, dataset.validation.bytes) == (len(train), len(valid))
    assert dataset.validation_text.read_bytes() == valid.tobytes()
    listed = load_dataset(dataset.path)
    assert (len(listed.train), len(listed.validation)) == (len(train), len(valid))
    assert (listed.train.bytes, listed.validation.bytes) == (len(train), len(valid))


@pytest.mark.parametrize("kind", ["bin", "header"])
def test_a_share_at_the_end_is_held_out(tmp_path: Path, kind: str) -> None:
    ids = np.concatenate([np.arange(200), [256]])
    dataset = prepared(config(save(tmp_path / "data", kind, ids), validation_fraction=0.1), tmp_path)
    assert (len(dataset.train), len(dataset.validation)) == (180, 21)
    assert dataset.validation.read(0, 21).tolist() == [*range(180, 200), 256]
    assert dataset.validation.bytes == 20, "the separator stands for no text"
    with pytest.raises(IndexError):
        dataset.validation.read(0, 22)


def test_several_files_by_folder_and_glob(tmp_path: Path) -> None:
    (tmp_path / "tok").mkdir()
    for number in range(3):
        save(tmp_path / f"tok/data{number:02}", "bin", np.arange(50) + number)
    save(tmp_path / "valid", "bin", np.arange(20))
    for corpus in (tmp_path / "tok", tmp_path / "tok/data*.bin"):
        dataset = prepared(config(corpus, tmp_path / "valid.bin"), tmp_path)
        assert len(dataset.train) == 150
        assert dataset.train.read(48, 52).tolist() == [48, 49, 1, 2]


def test_an_id_outside_the_vocabulary_is_named_with_file_and_offset(tmp_path: Path) -> None:
    ids = np.arange(200)
    ids[123] = 300
    with pytest.raises(UserError, match=r"data\.bin holds the id 300 at offset 123, but the vocabulary ends at 256"):
        prepared(config(save(tmp_path / "data", "bin", ids)), tmp_path)
    ids[123] = -1
    np.save(tmp_path / "data.npy", ids)
    with pytest.raises(UserError, match=r"data\.npy holds the id -1 at offset 123"):
        prepared(config(tmp_path / "data.npy"), tmp_path)


def test_the_tokenizer_must_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "data", "bin", np.arange(200))
    learnt = from_mapping({"tokenizer": {"kind": "bpe", "vocab_size": 300}, "data": {"corpus": str(path)}})
    with pytest.raises(ConfigError, match=r"tokenizer\.path: is needed to read token files"):
        prepared(learnt, tmp_path)


def test_chunks_asked_for_are_prepared_and_can_be_a_corpus_themselves(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {n} of the text.\n" for n in range(300)))
    plain = prepared(config(text), tmp_path)
    chunked = prepared(config(text, chunk_tokens=500), tmp_path)
    assert chunked.fingerprint != plain.fingerprint
    for one, other in ((plain.train, chunked.train), (plain.validation, chunked.validation)):
        assert one.read(0, len(one)).tolist() == other.read(0, len(other)).tolist()
        assert one.bytes == other.bytes
    chunks = sorted((chunked.path / "train").glob("encoded_tokens_chunk_*.dat"))
    assert len(chunks) == -(-len(plain.train) // 500)
    assert {chunk.stat().st_size for chunk in chunks[:1]} == {2000}
    again = prepared(config(chunked.path / "train", chunked.path / "validation"), tmp_path / "home")
    assert again.train.read(0, len(plain.train)).tolist() == plain.train.read(0, len(plain.train)).tolist()
    chunks[0].write_bytes(b"")
    with pytest.raises(UserError, match=r"chunk_0\.dat is empty"):
        load_dataset(chunked.path)


def test_separate_validation_text(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.jsonl"
    train.write_text("To learn from. " * 20)
    valid.write_text("\n".join(json.dumps({"text": f"Held out {n}. "}) for n in range(3)))
    dataset = prepared(config(train, valid, boundary="none"), tmp_path)
    texts = [dataset.tokenizer.decode(side.read(0, len(side)).tolist()) for side in (dataset.train, dataset.validation)]
    assert texts == ["To learn from. " * 20, "Held out 0. Held out 1. Held out 2. "]
    valid.write_text(json.dumps({"text": "Something else."}))
    assert prepared(config(train, valid, boundary="none"), tmp_path).fingerprint != dataset.fingerprint


def test_format_says_what_the_name_does_not(tmp_path: Path) -> None:
    lines = tmp_path / "lines.dat"
    lines.write_text("\n".join(json.dumps({"text": f"Text {n} " * 9}) for n in range(50)))
    dataset = prepared(config(lines, format="jsonl", boundary="none"), tmp_path)
    assert b'"text"' not in dataset.validation_text.read_bytes()
    np.arange(200, dtype=np.uint16).tofile(tmp_path / "ids.dat")
    assert len(prepared(config(tmp_path / "ids.dat", format="tokens"), tmp_path).train) == 190
    with pytest.raises(UserError, match="holds no token files"):
        prepared(config(tmp_path / "none", format="tokens"), tmp_path)


def test_a_run_trains_on_npy_files(tmp_path: Path) -> None:
    from llm.config import with_overrides
    from llm.run import Run
    from llm.training.run import run_training

    ids = np.frombuffer(b"one two three four five six " * 40, np.uint8)
    tiny = {"model.n_layer": "1", "model.d_model": "12", "model.n_head": "2", "train.steps": "3", "sample.every": "0"}
    base = config(save(tmp_path / "train", "npy", ids), save(tmp_path / "valid", "npy", ids[:99]))
    run = Run.create(tmp_path, "npy", with_overrides(base, [*tiny.items(), ("train.device", "cpu")]))
    assert run_training(run, tmp_path).status == "finished"
