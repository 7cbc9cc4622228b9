"""The saved form: comes back the same, is plain text, and is checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken.load

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

from .conftest import CORPUS

KINDS = ("byte", "char", "bpe", "sentencepiece")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_comes_back_the_same(tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    before = tokenizers[kind]
    before.save(tmp_path / "deep" / "tokenizer")
    after = load_tokenizer(tmp_path / "deep" / "tokenizer")
    assert after.kind == kind
    assert after.vocab_size == before.vocab_size
    assert list(after.special_tokens.items()) == list(before.special_tokens.items())
    assert (after.separator, after.stop_ids, after.dummy_prefix) == (
        before.separator,
        before.stop_ids,
        before.dummy_prefix,
    )
    assert after.fingerprint() == before.fingerprint()
    for text in CORPUS:
        assert after.encode(text) == before.encode(text)
        assert after.decode(before.encode(text)) == before.decode(before.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_can_name_a_saved_tokenizer(
    tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    tokenizers[kind].save(tmp_path)
    loaded = build_tokenizer(TokenizerConfig(kind=kind, path=str(tmp_path)), iter(()))  # type: ignore[arg-type]
    assert loaded.fingerprint() == tokenizers[kind].fingerprint()
    other = "byte" if kind != "byte" else "char"
    with pytest.raises(UserError, match=f"kind {kind}"):
        build_tokenizer(TokenizerConfig(kind=other, path=str(tmp_path)), [])  # type: ignore[arg-type]


def test_fingerprints_tell_tokenizers_apart(tokenizers: dict[str, Tokenizer]) -> None:
    more = build_tokenizer(TokenizerConfig(vocab_size=499), CORPUS)
    renamed = build_tokenizer(TokenizerConfig(vocab_size=500, special_tokens=("<|end|>",)), CORPUS)
    again = build_tokenizer(TokenizerConfig(vocab_size=500), CORPUS)
    everything = [*tokenizers.values(), more, renamed]
    assert len({tokenizer.fingerprint() for tokenizer in everything}) == len(everything)
    assert again.fingerprint() == tokenizers["bpe"].fingerprint()


def test_the_table_is_one_that_tiktoken_reads(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["bpe"].save(tmp_path)
    ranks = tiktoken.load.load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken"))
    assert all(tokenizers["bpe"].token_bytes(rank) == token for token, rank in ranks.items())
    assert len(ranks) == tokenizers["bpe"].vocab_size - 1


def test_a_newer_format_is_refused_plainly(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["byte"].save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(record | {"format_version": 2}))
    with pytest.raises(UserError, match="newer version"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "magic"},
        {"kind": ["bpe"]},
        {"special_tokens": {"a": 5}},
        {"special_tokens": {"a": 1.5}},
        {"special_tokens": {"a": 10**12}},
        {"special_tokens": []},
        {"pattern": 7},
        {"pattern": "("},
        {"ranks_sha256": "0"},
        {"format_version": "1"},
    ],
)
def test_a_damaged_record_is_refused(
    tokenizers: dict[str, Tokenizer], change: dict[str, object], tmp_path: Path
) -> None:
    tokenizers["bpe"].save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(record | change))
    with pytest.raises(UserError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["byte", "char", "sentencepiece"])
def test_special_tokens_with_other_ids_are_refused(tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    tokenizers[kind].save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    moved = {text: token_id + 1 for text, token_id in record["special_tokens"].items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(record | {"special_tokens": moved}))
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": "1.0", "model": {}}', b"\xff"])
def test_a_file_that_is_no_record_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_a_missing_or_damaged_table_is_refused(tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    tokenizers[kind].save(tmp_path)
    table = tmp_path / {"bpe": "ranks.tiktoken", "sentencepiece": "sentencepiece.model"}[kind]
    table.write_bytes(table.read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path)


def test_no_directory_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no tokenizer at"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path / "nowhere")), [])
    with pytest.raises(UserError, match="no saved tokenizer"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path)), [])
