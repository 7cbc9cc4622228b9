"""Text encoded piece by piece has the ids of the whole, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer import Tokenizer
from llm.tokenizer.bpe import SPLIT_PATTERN, train_bpe
from llm.tokenizer.cuts import chunks, last_cut_between_words, last_safe_cut
from llm.tokenizer.gpt2files import GPT2_PATTERN
from llm.tokenizer.patterns import CL100K_PATTERN, GPT4_PATTERN, O200K_PATTERN
from llm.tokenizer.ranks import RankTokenizer

from .conftest import AWKWARD, CORPUS

PATTERNS = {
    "own": SPLIT_PATTERN,
    "gpt2": GPT2_PATTERN,
    "gpt4": GPT4_PATTERN,
    "cl100k": CL100K_PATTERN,
    "o200k": O200K_PATTERN,
}

fragments = st.sampled_from(
    [*AWKWARD, "the", "'ll", "  ", "\n\n", ".\n", "/\n/", "从前", "LL", "12345", " a b", "\r\n"]
)
long_text = st.lists(fragments | st.characters(), max_size=80).map("".join)


@pytest.fixture(scope="session")
def by_pattern() -> dict[str, RankTokenizer]:
    """Tokenizers with each of the patterns, whose vocabularies have merges across everything the pattern allows."""
    built = {}
    for name, pattern in PATTERNS.items():
        tokens = [bytes([value]) for value in range(256)]
        tokens += train_bpe([*CORPUS, AWKWARD * 3, " \n\n\t .\n/\n 's'LL  a"], 700, pattern=pattern)
        built[name] = RankTokenizer("bpe", {token: rank for rank, token in enumerate(tokens)}, {}, pattern)
    return built


@pytest.mark.parametrize("name", PATTERNS)
@given(long_text)
@settings(max_examples=60, deadline=None)
def test_every_cut_called_safe_is_safe(by_pattern: dict[str, RankTokenizer], name: str, text: str) -> None:
    tokenizer = by_pattern[name]
    whole = tokenizer.encode(text)
    end = len(text)
    while cut := last_safe_cut(text[:end], 0):
        assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == whole
        end = cut


@given(st.lists(long_text, max_size=6), st.integers(min_value=1, max_value=40))
@settings(max_examples=60, deadline=None)
def test_chunks_are_the_text(pieces: list[str], size: int) -> None:
    found = list(chunks(pieces, last_safe_cut, size))
    assert "".join(found) == "".join(pieces)
    assert all(found)


@given(st.lists(long_text, max_size=6), st.integers(min_value=1, max_value=40))
@settings(max_examples=40, deadline=None)
def test_small_chunks_have_the_ids_of_the_whole(tokenizers: dict[str, Tokenizer], pieces: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "__defaults__", (size,))
        for tokenizer in tokenizers.values():
            streamed = [token_id for ids in tokenizer.encode_stream(pieces) for token_id in ids]
            assert streamed == tokenizer.encode("".join(pieces)), tokenizer.kind


@pytest.mark.parametrize("unit", ["word\n", "你好。", "1,", "a b ", "x = f(y)\n", "one\ttwo\t"])
def test_memory_is_bounded_by_the_chunk(unit: str) -> None:
    longest = 0
    for chunk in chunks((unit for _ in range(5000)), last_safe_cut, size=100):
        longest = max(longest, len(chunk))
    assert longest <= 100 + len(unit)


def test_one_huge_piece_is_not_encoded_at_once(tokenizers: dict[str, Tokenizer]) -> None:
    text = "the fox ate berries. " * 20_000
    lists = list(tokenizers["bpe"].encode_stream([text]))
    assert len(lists) > 5
    assert [token_id for ids in lists for token_id in ids] == tokenizers["bpe"].encode(text)


def test_ids_come_before_the_text_has_ended(tokenizers: dict[str, Tokenizer]) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "the fox ate berries. "

    for tokenizer in tokenizers.values():
        assert next(tokenizer.encode_stream(endless()))


def test_sentencepiece_cuts_only_at_single_spaces() -> None:
    assert last_cut_between_words("one two  three four", 0) == len("one two  three")
    assert last_cut_between_words("one  two", 0) == 0
    assert last_cut_between_words("a \u0301b", 0) == 0
