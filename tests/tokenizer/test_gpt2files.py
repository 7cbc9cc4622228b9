"""vocab.json and merges.txt, against the reader of transformers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer, train_bpe
from llm.tokenizer.gpt2files import GPT2_PATTERN, load_gpt2_files, parse_gpt2_files, printable_bytes

from .conftest import CORPUS, awkward_text, tiktoken_copies


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as GPT-2 has them, with merges learnt from the corpus."""
    path = tmp_path_factory.mktemp("gpt2")
    written = {value: character for character, value in printable_bytes().items()}
    ids = {character: index for index, character in enumerate(printable_bytes())}
    lines = ["#version: 0.2"]
    known = [bytes([value]) for value in range(256)]
    for token in train_bpe(CORPUS, 600, pattern=GPT2_PATTERN):
        ids["".join(written[value] for value in token)] = len(ids)
        # The pair a token was made of is what the token falls into when it is encoded without itself.
        parts = [bytes([value]) for value in token]
        while len(parts) > 2:
            joined = [left + right for left, right in pairwise(parts)]
            best = min((known.index(piece), index) for index, piece in enumerate(joined) if piece in known)[1]
            parts[best : best + 2] = [joined[best]]
        lines.append(" ".join("".join(written[value] for value in part) for part in parts))
        known.append(token)
    ids["<|endoftext|>"] = len(ids)
    (path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def ours(folder: Path) -> Tokenizer:
    return load_gpt2_files(folder, ["<|endoftext|>"])


@pytest.fixture(scope="session")
def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Tokenizer.from_pretrained(folder, local_files_only=True)


@given(awkward_text())
@settings(max_examples=40, deadline=None)
def test_the_ids_are_those_of_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_the_corpus_has_the_ids_of_transformers(ours: Tokenizer, theirs: Any) -> None:
    for text in CORPUS:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.encode("fox<|endoftext|>fox", special=True) == theirs.encode("fox<|endoftext|>fox")
    assert (ours.vocab_size, ours.separator) == (len(theirs), theirs.eos_token_id)


def test_openais_own_files_give_tiktokens_gpt2(gpt2: Tokenizer, tmp_path: Path) -> None:
    copies = tiktoken_copies()
    assert copies is not None
    by_size = sorted(copies.iterdir(), key=lambda path: path.stat().st_size)
    (tmp_path / "vocab.bpe").write_bytes(by_size[0].read_bytes())
    (tmp_path / "encoder.json").write_bytes(by_size[1].read_bytes())
    loaded = build_tokenizer(TokenizerConfig(kind="gpt2-files", path=str(tmp_path)), [])
    assert (loaded.vocab_size, loaded.separator) == (50257, 50256)
    assert all(loaded.encode(text) == gpt2.encode(text) for text in CORPUS)


def test_it_is_saved_whole(ours: Tokenizer, tmp_path: Path) -> None:
    ours.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.kind == "gpt2-files"
    assert all(loaded.encode(text) == ours.encode(text) for text in CORPUS)


def small_files(**changes: int | None) -> tuple[bytes, bytes]:
    ids: dict[str, int | None] = {character: index for index, character in enumerate(printable_bytes())}
    ids |= {"ab": 256, "abc": 257} | changes
    kept = {name: token_id for name, token_id in ids.items() if token_id is not None}
    return json.dumps(kept).encode(), b"#version: 0.2\na b\nab c\n"


def test_ids_may_leave_gaps_and_begin_with_special_tokens() -> None:
    ranks, special = parse_gpt2_files(*small_files(abc=300, pad=299))
    assert (ranks[b"abc"], special) == (300, {"pad": 299})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ab": 400}, "out of the order"),
        ({"abc": None}, "not in the vocabulary"),
        ({"Ġ": None}, "not in the vocabulary"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    changes: dict[str, int | None], complaint: str, tmp_path: Path
) -> None:
    vocab, merges = small_files(**changes)
    (tmp_path / "vocab.json").write_bytes(vocab)
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(UserError, match=complaint):
        load_gpt2_files(tmp_path)


@pytest.mark.parametrize("vocab", [b"", b"[1]", b'{"a": "b"}', b"\xff"])
def test_a_damaged_vocabulary_is_refused(vocab: bytes, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes(vocab)
    (tmp_path / "merges.txt").write_bytes(b"a b\n")
    with pytest.raises(UserError, match=r"vocab\.json"):
        load_gpt2_files(tmp_path)


def test_the_folder_may_be_named_by_a_file_in_it(folder: Path, ours: Tokenizer) -> None:
    for name in ("vocab.json", "merges.txt"):
        tokenizer = build_tokenizer(TokenizerConfig(kind="gpt2-files", path=str(folder / name)), [])
        assert tokenizer.encode(CORPUS[0]) == ours.encode(CORPUS[0])


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").touch()
    for path in (tmp_path, tmp_path / "vocab.json"):
        with pytest.raises(UserError, match=rf"^{tmp_path} does not hold vocab\.json and merges\.txt"):
            build_tokenizer(TokenizerConfig(kind="gpt2-files", path=str(path)), [])
    with pytest.raises(UserError, match=r"tokenizer\.path"):
        build_tokenizer(TokenizerConfig(kind="gpt2-files"), [])
