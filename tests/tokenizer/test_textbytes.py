"""Bytes of text behind tokens, against the bytes of the text itself, whatever tokenizer made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm.config import TokenizerConfig, from_mapping
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import prepare
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.tokenizer.textbytes import TextBytes
from tests.draining import result_of

from .conftest import CORPUS

KINDS = ("byte", "char", "bpe", "sentencepiece")
TEXTS = ["Hello world", " two spaces  before", "\nline", "日本語 😀", "▁", "x", " ", "a\n b\n", *CORPUS]


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    texts = [*CORPUS, *TEXTS]
    return {kind: build_tokenizer(TokenizerConfig(kind=kind, vocab_size=420), texts) for kind in KINDS}  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_counts_its_own_bytes(trained: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    text = TextBytes(tokenizer)
    ids, wanted = [], []
    for document in TEXTS:
        whole = document.replace("▁", " ") if kind == "sentencepiece" else document  # the sign that does not come back
        encoded = tokenizer.encode(document)
        for separator in tokenizer.special_tokens.values() if document == "x" else [tokenizer.separator]:
            ids += [separator, *encoded]
            wanted.append(whole)
        alone = np.array(encoded)
        before = np.array([text.beginning, *encoded[:-1]])
        assert text.counts(alone, before).sum() == len(whole.encode()), document
        assert text.text(alone, before) == whole.encode()
    row = np.array(ids)
    assert text.counts(row[1:], row[:-1]).sum() == len("".join(wanted).encode())
    assert text.text(row[1:], row[:-1]) == "".join(wanted).encode()
    assert text.counts(row[1:].reshape(1, -1), row[:-1].reshape(1, -1)).shape == (1, len(row) - 1)


def test_hello_world_has_eleven_bytes(trained: dict[str, Tokenizer]) -> None:
    for tokenizer in trained.values():
        row = np.array([tokenizer.separator, *tokenizer.encode("Hello world")])
        assert TextBytes(tokenizer).counts(row[1:], row[:-1]).sum() == 11
    apart = np.array(trained["sentencepiece"].encode("Hello world"))
    unbegun = np.roll(apart, 1)
    assert TextBytes(trained["sentencepiece"]).counts(apart, unbegun).sum() == 12, "in mid-text a space is a space"


def prepared(kind: str, corpus: Path, home: Path, **tokenizer: object) -> Dataset:
    data = {"corpus": str(corpus), "boundary": "before", "validation_fraction": 0.3}
    chosen = {"kind": kind, "vocab_size": 420, **tokenizer}
    return result_of(prepare(from_mapping({"data": data, "tokenizer": chosen, "model": {"context": 8}}), home))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_text_counts_the_same_by_every_tokenizer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"Text {n} of them,\n it ends."}) + "\n" for n in range(40)))
    dataset = prepared(kind, path, tmp_path)
    ids = dataset.validation.read(0, len(dataset.validation)).astype(np.int64)
    true = dataset.validation_text.stat().st_size
    assert true == dataset.validation.bytes > 200
    assert ids[0] == dataset.tokenizer.separator
    assert TextBytes(dataset.tokenizer).counts(ids[1:], ids[:-1]).sum() == true


def test_token_files_of_sentencepiece_count_their_text(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["sentencepiece"]
    tokenizer.save(tmp_path / "tokenizer")
    stories = [f"Story {n} begins\nand ends." for n in range(9)]
    ids = [token for story in stories for token in (1, *tokenizer.encode(story))]
    for name in ("train", "val"):
        np.array(ids, dtype="<u2").tofile(tmp_path / f"{name}.bin")
    dataset = prepared("sentencepiece", tmp_path / "*.bin", tmp_path / "home", path=str(tmp_path / "tokenizer"))
    size = len("".join(stories))
    assert (dataset.train.bytes, dataset.validation.bytes) == (size, size)
    assert dataset.validation_text.read_text() == "".join(stories)
