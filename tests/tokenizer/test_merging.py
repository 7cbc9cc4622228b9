"""Merges learned with arrays, against a definition that recounts everything, by both rules for ties."""

from __future__ import annotations

import functools
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import regex

from llm.tokenizer import RankTokenizer, merging, train_bpe, train_merges
from llm.tokenizer.bpe import SPLIT_PATTERN
from llm.tokenizer.merging import learn_merges
from llm.tokenizer.patterns import GPT2_PATTERN

from .reference import encode_reference

LOW = "low low low low low\nlower lower widest widest widest\nnewest newest newest newest newest newest\n"
WORDS = r"\S+|\s"


def naive_merges(words: dict[bytes, int], count: int, ties: str) -> list[tuple[bytes, bytes]]:
    """The course's definition: the most frequent pair, of several the greatest (bytes, bytes); or ours, by ids."""
    spelled = {word: [word[i : i + 1] for i in range(len(word))] for word in words}
    ids = {bytes([value]): value for value in range(256)}
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < count:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                counts[pair] += words[word]
        if not counts:
            break
        if ties == "bytes":
            best = max(counts, key=lambda pair: (counts[pair], pair))
        else:
            best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(best)
        ids.setdefault(best[0] + best[1], 255 + len(merges))
        for parts in spelled.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = [best[0] + best[1]]
                place += 1
    return merges


def spelled_out(pairs: list[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    tokens = [bytes([value]) for value in range(256)]
    for left, right in pairs:
        tokens.append(tokens[left] + tokens[right])
    return [(tokens[left], tokens[right]) for left, right in pairs]


@pytest.mark.parametrize("few", [0, 24, 10**9])
@pytest.mark.parametrize("ties", ["ids", "bytes"])
def test_merges_are_those_of_the_definition(few: int, ties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FEW_POSITIONS", few)
    for seed in range(150):
        words, expected = words_with_merges(seed, ties)
        assert spelled_out(learn_merges(words, 40, ties)) == expected, seed


@functools.cache
def words_with_merges(seed: int, ties: str) -> tuple[Counter[bytes], list[tuple[bytes, bytes]]]:
    """Random words, and their merges by definition."""
    draw = random.Random(seed)
    alphabet = draw.choice(["ab", "aab", "abc", "abcdefgh", "a", "\x00\xff"])
    words = Counter(
        "".join(draw.choices(alphabet, k=draw.randrange(60))).encode("latin-1") for _ in range(draw.randrange(12))
    )
    return words, naive_merges(words, 40, ties)


def test_the_example_of_the_course() -> None:
    """The corpus of the handout of CS336's first assignment, and the merges it gives."""
    expected = "s t|e st|o w|l ow|w est|n e|ne west|w i|wi d|wid est|low e|lowe r"
    merges = train_merges([LOW], 256 + 12, pattern=WORDS, ties="bytes")
    assert "|".join(f"{left.decode()} {right.decode()}" for left, right in merges) == expected
    six = RankTokenizer.from_merges(vocabulary_of(merges[:6]), merges[:6], pattern=WORDS)
    assert [six.token_bytes(token) for token in six.encode("newest")] == [b"ne", b"west"]
    assert train_merges([LOW], 257, pattern=WORDS) == [(b"e", b"s")], "ours takes the smaller ids"


def test_the_course_s_rule_on_prose_code_and_chinese(corpus: list[str]) -> None:
    words = Counter(word.encode() for text in corpus for word in regex.findall(GPT2_PATTERN, text))
    expected = naive_merges(words, 243, "bytes")
    merges = train_merges(corpus, 256 + 243, pattern=GPT2_PATTERN, ties="bytes")
    assert len(merges) > 100
    assert merges == expected
    assert train_bpe(corpus, 256 + 243, pattern=GPT2_PATTERN, ties="bytes") == [left + right for left, right in merges]
    assert merges != train_merges(corpus, 256 + 243, pattern=GPT2_PATTERN, ties="ids")


def test_merges_are_the_parts_of_the_tokens_that_rustbpe_learns(corpus: list[str]) -> None:
    merges = train_merges(corpus, 700)
    assert [left + right for left, right in merges] == train_bpe(corpus, 700)


def test_text_without_spaces_is_left_to_the_trainer_that_copes(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm.tokenizer import bpe

    text = "".join(random.Random(1).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=4000))
    expected = train_bpe([text], 400, native=False)
    learned: list[int] = []
    monkeypatch.setattr(bpe, "learn_merges", lambda *given: learned.append(1) or learn_merges(*given))
    assert train_bpe([text], 400) == expected
    assert learned == [1]
    train_bpe(["the theatre is there " * 50], 260)
    assert learned == [1], "ordinary text goes to rustbpe"


def test_special_tokens_are_no_text_to_learn_from() -> None:
    text = "<|endoftext|>".join(["the theatre is there"] * 50)
    learned = train_bpe([text], 300, special_tokens=["<|endoftext|>"])
    assert learned
    assert not any(b"<|" in token or b"end" in token for token in learned)


def vocabulary_of(merges: list[tuple[bytes, bytes]]) -> dict[int, bytes]:
    tokens = [*(bytes([value]) for value in range(256)), *(left + right for left, right in merges)]
    return dict(enumerate(tokens))


def test_a_tokenizer_from_vocabulary_and_merges(corpus: list[str]) -> None:
    merges = train_merges(corpus, 600, pattern=GPT2_PATTERN, ties="bytes")
    vocabulary = vocabulary_of(merges)
    vocabulary[len(vocabulary)] = b"<|old|>"
    tokenizer = RankTokenizer.from_merges(vocabulary, merges, ["<|endoftext|>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": len(vocabulary), "<|old|>": len(vocabulary) - 1}
    ranks = {token: token_id for token_id, token in vocabulary.items()}
    for text in corpus:
        assert tokenizer.encode(text) == list(encode_reference(text, ranks, GPT2_PATTERN))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = tokenizer.encode("fox<|endoftext|><|old|> é", special=True)
    assert tokenizer.decode(ids) == "fox é"
    assert tokenizer.decode(ids, special=True) == "fox<|endoftext|><|old|> é"


@pytest.mark.parametrize(
    ("merges", "problem"),
    [([(b"a", b"b"), (b"c", b"d")], "out of the order"), ([(b"x", b"y")], "not in the vocabulary")],
)
def test_vocabulary_and_merges_that_do_not_belong_together(merges: list[tuple[bytes, bytes]], problem: str) -> None:
    vocabulary = vocabulary_of([(b"c", b"d"), (b"a", b"b")])
    with pytest.raises(ValueError, match=problem):
        RankTokenizer.from_merges(vocabulary, merges)


def test_the_pattern_of_this_project_is_the_usual_one() -> None:
    assert train_bpe(["don't"], 300) == train_bpe(["don't"], 300, pattern=SPLIT_PATTERN)
