"""tiktoken's encodings: the same as tiktoken's, and never a connection."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public as definitions
from hypothesis import given, settings

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from llm.tokenizer.gpt2files import GPT2_PATTERN
from llm.tokenizer.pretrained import ENCODINGS, CachedFile, Encoding, cache_directory, load_encoding
from llm.tokenizer.saved import dump_ranks

from .conftest import CORPUS, awkward_text, tiktoken_copies


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to open or resolve anything is noted and fails."""
    attempts: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(repr(arguments))
        raise AssertionError(f"a connection was attempted: {arguments}")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return attempts


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_missing_copy_is_refused_without_opening_a_socket(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"is not downloaded automatically.*TIKTOKEN_CACHE_DIR"):
        build_tokenizer(TokenizerConfig(kind="tiktoken", encoding=name), [])
    assert no_network == []
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    copy = tmp_path / hashlib.sha1(ENCODINGS["r50k_base"].files[0].url.encode()).hexdigest()
    copy.write_bytes(b"IQ== 0\n")
    with pytest.raises(UserError, match=rf"'r50k_base' cannot be used \({copy} is damaged.*run  python -c") as caught:
        load_encoding("r50k_base")
    assert "is not in" not in str(caught.value)
    assert copy.read_bytes() == b"IQ== 0\n"


def test_the_cache_is_where_tiktoken_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    assert cache_directory().name == "data-gym-cache"
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "gym"))
    assert cache_directory() == tmp_path / "gym"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean cl100k_base"):
        load_encoding("cl100k")


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_is_defined_as_tiktoken_defines_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def ranks(address: str, expected_hash: str) -> dict[bytes, int]:
        asked.append((address, expected_hash))
        return {}

    def gpt2_ranks(**files: str) -> dict[bytes, int]:
        asked.append((files["encoder_json_file"], files["encoder_json_hash"]))
        asked.append((files["vocab_bpe_file"], files["vocab_bpe_hash"]))
        return {}

    monkeypatch.setattr(definitions, "load_tiktoken_bpe", ranks)
    monkeypatch.setattr(definitions, "data_gym_to_mergeable_bpe_ranks", gpt2_ranks)
    theirs = definitions.ENCODING_CONSTRUCTORS[name]()
    assert ENCODINGS[name].pattern == theirs["pat_str"]
    assert ENCODINGS[name].special_tokens == theirs["special_tokens"]
    assert [(file.url, file.sha256) for file in ENCODINGS[name].files] == asked


def test_a_table_of_ranks_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that cl100k and o200k take, with a small table in place of theirs."""
    table = dump_ranks({bytes([value]): 255 - value for value in range(256)} | {b"ab": 256})
    file = CachedFile("https://example.org/small.tiktoken", hashlib.sha256(table).hexdigest())
    small = Encoding(GPT2_PATTERN, {"<|endoftext|>": 300}, (file,))
    monkeypatch.setattr("llm.tokenizer.pretrained.ENCODINGS", {"small": small})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / hashlib.sha1(file.url.encode()).hexdigest()).write_bytes(table)
    tokenizer = load_encoding("small", ["<|user|>", "<|endoftext|>"])
    assert tokenizer.encode("abc") == [256, 255 - ord("c")]
    assert tokenizer.special_tokens == {"<|user|>": 301, "<|endoftext|>": 300}
    assert (tokenizer.vocab_size, tokenizer.separator) == (302, 301)
    assert tokenizer.decode([280]) == ""


@pytest.fixture(scope="session")
def theirs() -> tiktoken.Encoding:
    folder = tiktoken_copies()
    if folder is None:
        pytest.skip("there is no copy of tiktoken's gpt2 files beside the repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.get_encoding("gpt2")


@given(awkward_text())
@settings(max_examples=40, deadline=None)
def test_gpt2_is_tiktokens_gpt2(gpt2: Tokenizer, theirs: tiktoken.Encoding, text: str) -> None:
    assert gpt2.encode(text) == theirs.encode_ordinary(text)
    special = text + "<|endoftext|>" + text
    assert gpt2.encode(special, special=True) == theirs.encode(special, allowed_special="all")


def test_gpt2_has_the_sizes_everybody_knows(gpt2: Tokenizer) -> None:
    assert (gpt2.vocab_size, gpt2.separator) == (50257, 50256)
    assert gpt2.encode("hello world") == [31373, 995]
    assert gpt2.encode("Every effort moves you") == [6109, 3626, 6100, 345]


def test_a_saved_encoding_needs_no_cache(
    gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    gpt2.save(tmp_path / "tokenizer")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert (loaded.kind, loaded.fingerprint()) == ("tiktoken", gpt2.fingerprint())
    assert all(loaded.encode(text) == gpt2.encode(text) for text in CORPUS)
    assert no_network == []
