"""The split pattern as a field of the configuration."""

from __future__ import annotations

import pytest
import regex

from llm.config import load_preset
from llm.config.schema import TokenizerConfig
from llm.errors import ConfigError
from llm.tokenizer import RankTokenizer, build_tokenizer
from llm.tokenizer.patterns import GPT2_PATTERN, GPT4_PATTERN, OWN_PATTERN, resolve_pattern

COURSE_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def test_names_and_expressions() -> None:
    assert [resolve_pattern(name) for name in ("ours", "gpt2", "gpt4")] == [OWN_PATTERN, GPT2_PATTERN, GPT4_PATTERN]
    assert resolve_pattern(r"\w+") == r"\w+|[\s\S]"
    assert resolve_pattern(r"\w+|[\s\S]") == r"\w+|[\s\S]"


def test_gpt2_splits_as_the_course_does(corpus: list[str]) -> None:
    for text in [*corpus, "a \n\n  b\t\n", "  ", "it's we'll 123 x1", "\n"]:
        assert regex.findall(GPT2_PATTERN, text) == regex.findall(COURSE_PATTERN, text)


@pytest.mark.parametrize("pattern", ["(", "x*", "", r"\b|\w", "[z-a]"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.pattern"):
        resolve_pattern(pattern)


@pytest.mark.parametrize("pattern", ["ours", "gpt2", "gpt4", r"\w+", r"[a-z]+", r"( ?)(\w+)", "(a+)+b", "(x)?y"])
def test_no_pattern_loses_text(pattern: str, corpus: list[str]) -> None:
    tokenizer = build_tokenizer(TokenizerConfig(vocab_size=400, pattern=pattern), corpus)
    assert isinstance(tokenizer, RankTokenizer)
    assert tokenizer.pattern == resolve_pattern(pattern)
    text = "\n\n".join([*corpus, "a\u3000b é 😀\r\n"])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    chunked = [
        token for ids in tokenizer.encode_stream(text[i : i + 7] for i in range(0, len(text), 7)) for token in ids
    ]
    assert chunked == tokenizer.encode(text)


def test_the_preset_of_the_assignment_is_the_course_s(tmp_path: object) -> None:
    from pathlib import Path

    tokenizer = load_preset("cs336-assignment", Path(str(tmp_path))).tokenizer
    assert (tokenizer.pattern, tokenizer.ties) == ("gpt2", "bytes")
    assert TokenizerConfig().pattern == "ours"
    assert TokenizerConfig().ties == "ids"
