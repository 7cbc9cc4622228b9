"""Folders as other programs leave them: which of their files are tokens, and which of those are held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm.data.text.find_files import find_files
from llm.data.tokens.dataset import Dataset, load_dataset
from llm.data.tokens.token_paths import is_token_corpus, token_paths
from llm.errors import UserError
from tests.data.tokens.test_token_files import config, prepared

IDS = np.arange(200) % 256
HELD_OUT = IDS[:150] + 3


def folder_of(path: Path, *names: str) -> Path:
    """A folder of token files; those named for validation hold other ids, any that are no token files some text."""
    path.mkdir()
    for name in names:
        ids = HELD_OUT if "val" in name else IDS
        if name.endswith(".npy"):
            np.save(path / name, ids)
        elif "fineweb" in name:
            header = np.zeros(256, "<i4")
            header[:3] = 20240520, 1, len(ids)
            (path / name).write_bytes(header.tobytes() + ids.astype("<u2").tobytes())
        elif name.endswith(".bin"):
            ids.astype("<u2").tofile(path / name)
        elif name.endswith(".dat"):
            ids.astype("<i4").tofile(path / name)
        else:
            (path / name).write_text("Some text.\n")
    return path


def sides(dataset: Dataset) -> tuple[list[int], list[int]]:
    train, held_out = (side.read(0, len(side)).tolist() for side in (dataset.train, dataset.validation))
    return train, held_out


NANOGPT = ("train.bin", "val.bin", "meta.pkl", "input.txt", "prepare.py", "readme.md")


@pytest.mark.parametrize(
    "names",
    [
        ("train.bin", "val.bin"),
        NANOGPT,
        ("train.npy", "valid.npy"),
        ("fineweb_train_000001.bin", "fineweb_val_000000.bin"),
        ("tinystories-training.npy", "tinystories-validation.npy", "LICENSE"),
    ],
)
@pytest.mark.parametrize("pattern", ["", "*"])
def test_files_named_for_validation_are_held_out(tmp_path: Path, names: tuple[str, ...], pattern: str) -> None:
    folder = folder_of(tmp_path / "tokens", *names)
    dataset = prepared(config(folder / pattern), tmp_path / "home")
    assert sides(dataset) == (IDS.tolist(), HELD_OUT.tolist())
    assert sides(load_dataset(dataset.path)) == (IDS.tolist(), HELD_OUT.tolist()), "found again where they lay"


def test_what_is_named_for_validation_is_never_trained_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tokens", "train.bin", "val.bin")
    for validation in (folder, folder / "val.bin"):
        assert sides(prepared(config(folder, validation), tmp_path)) == (IDS.tolist(), HELD_OUT.tolist())
    shards = folder_of(tmp_path / "shards", "data00.bin", "data01.bin", "data02.bin")
    dataset = prepared(config(shards, shards / "data00.bin"), tmp_path)
    assert sides(dataset) == (2 * IDS.tolist(), IDS.tolist())


def test_one_side_alone_is_a_corpus_of_which_a_share_is_held_out(tmp_path: Path) -> None:
    for names in (("train_0.bin", "train_1.bin"), ("val_0.bin",), ("a.bin", "train.bin")):
        folder = folder_of(tmp_path / names[0], *names)
        train, held_out = sides(prepared(config(folder), tmp_path))
        whole = np.concatenate([HELD_OUT if "val" in name else IDS for name in names])
        assert train + held_out == whole.tolist()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train.bin", "val.bin", "x.bin"), "train.bin and val.bin"),
        (("test.bin", "train.bin"), "test.bin and train.bin"),
        (("a.bin", "val.bin"), "a.bin and val.bin"),
    ],
)
def test_splits_that_cannot_be_recognized_are_refused(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    folder = folder_of(tmp_path / "tokens", *names)
    with pytest.raises(UserError, match=rf"holds {told}, and the split is ambiguous; name those for training in"):
        prepared(config(folder), tmp_path)


def test_a_mixture_that_cannot_be_decided_is_refused(tmp_path: Path) -> None:
    shards = folder_of(tmp_path / "shards", "data00.bin", "data00.json", "readme.md", "tok4096.model", "tok4096.vocab")
    assert is_token_corpus(config(shards).data)
    rows = folder_of(tmp_path / "rows", "train.bin", "train.jsonl")
    texts = folder_of(tmp_path / "texts", "a.txt", "b.txt", "logo.bin")
    for folder in (rows, texts):
        with pytest.raises(UserError, match=r"which is ambiguous; name the files themselves in data"):
            is_token_corpus(config(folder).data)
    assert not is_token_corpus(config(texts, format="text").data)
    assert not is_token_corpus(config(folder_of(tmp_path / "plain", "a.txt", "b.txt")).data)


def test_validation_that_is_no_token_file_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tokens", "train.bin", "heldout.txt", "fineweb_val.bin")
    with pytest.raises(UserError, match=r"heldout\.txt does not have the name of a token file .*in data\.validation"):
        prepared(config(folder / "train.bin", folder / "heldout.txt"), tmp_path)
    marked = (folder / "fineweb_val.bin").rename(folder / "marked")
    assert sides(prepared(config(folder / "train.bin", marked), tmp_path))[1] == HELD_OUT.tolist()
    np.asarray(HELD_OUT, "<u2").tofile(folder / "ids.dat")
    told = config(folder / "train.bin", folder / "ids.dat", format="tokens")
    assert sides(prepared(told, tmp_path))[1] == HELD_OUT.tolist()


def test_the_json_of_another_program_is_not_our_header(tmp_path: Path) -> None:
    """llama2.c writes data00.bin beside data00.json, from which it was made."""
    for record in ([{"story": "Once."}], {"story": "Once."}, [{"story": "Once. " * 999}]):
        folder = folder_of(tmp_path / str(len(list(tmp_path.iterdir()))), "data00.bin")
        (folder / "data00.json").write_text(json.dumps(record))
        train, held_out = sides(prepared(config(folder), tmp_path / "home"))
        assert train + held_out == IDS.tolist()


def test_no_file_outside_the_cache_is_to_be_deleted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tokens", "data00.bin")
    (folder / "data00.json").write_text(json.dumps({"format": "llm-workbench tokens"}))
    with pytest.raises(UserError, match=r"data00\.json is damaged; restore it") as caught:
        prepared(config(folder), tmp_path)
    assert "delete" not in str(caught.value)


def test_a_chunk_outside_the_glob_differs_from_a_lost_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "lecture", *(f"encoded_tokens_chunk_{number}.dat" for number in range(4)))
    with pytest.raises(UserError, match=r"does not match encoded_tokens_chunk_0\.dat, which exists.*name the folder"):
        token_paths(str(folder / "*_[13].dat"), "data.corpus")
    (folder / "encoded_tokens_chunk_0.dat").unlink()
    with pytest.raises(UserError, match=r"lacks encoded_tokens_chunk_0\.dat; restore it"):
        token_paths(str(folder / "*_[13].dat"), "data.corpus")


FOREIGN = (b"PK\x03\x04\0\0", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 ", b"\x7fELF\2\1", b"GGUF\3\0", b"\0\1\2")


@pytest.mark.parametrize("beginning", FOREIGN)
def test_text_next_to_a_foreign_bin_is_a_corpus_of_text(tmp_path: Path, beginning: bytes) -> None:
    """torch, compilers and llama.cpp write .bin, too; three bytes are no whole ids."""
    folder = folder_of(tmp_path / "texts", "a.txt")
    (folder / "model.bin").write_bytes(beginning)
    assert not is_token_corpus(config(folder).data)
    assert [path.name for path in find_files(str(folder))] == ["a.txt"]


def test_a_trained_tokenizer_reads_the_text_next_to_possible_tokens(tmp_path: Path) -> None:
    for number, names in enumerate((("a.txt", "ids.bin"), ("a.txt", "b.md", "ids.bin"))):
        folder = folder_of(tmp_path / str(number), *names)
        assert not is_token_corpus(config(folder).data, trains_tokenizer=True)
    assert is_token_corpus(config(tmp_path / "0").data), "tokens, where the tokenizer is known"
    for name, names in {"nanogpt": NANOGPT, "llama2": ("data00.bin", "readme.md", "LICENSE")}.items():
        assert is_token_corpus(config(folder_of(tmp_path / name, *names)).data, trains_tokenizer=True)
