"""The two trainers agree with each other and with a definition that recounts everything at every step."""

from __future__ import annotations

import random
import sys
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from llm.tokenizer.bpe import SPLIT_PATTERN, train_bpe

from .reference import encode_reference, merge_pair


def train_by_definition(texts: list[str], vocab_size: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    words = [list(word.encode()) for text in texts for word in regex.findall(SPLIT_PATTERN, text)]
    tokens, pairs = [bytes([value]) for value in range(256)], []
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [merge_pair(word, best, len(tokens)) for word in words]
        tokens.append(tokens[best[0]] + tokens[best[1]])
        pairs.append(best)
    return tokens[256:], pairs


def random_texts(seed: int) -> list[str]:
    draw = random.Random(seed)
    alphabet = draw.choice(["ab", "aab bc\n", "abcdefgh  .,!\n1", "你好 é😀a"])
    return ["".join(draw.choices(alphabet, k=draw.randrange(200))) for _ in range(draw.randrange(4))]


@pytest.mark.parametrize("seed", range(40))
def test_both_trainers_learn_the_same_merges_from_random_texts(seed: int) -> None:
    texts, vocab_size = random_texts(seed), 256 + random.Random(seed).randrange(120)
    expected, _ = train_by_definition(texts, vocab_size)
    assert train_bpe(texts, vocab_size, native=False) == expected
    assert train_bpe(texts, vocab_size, native=True) == expected


def test_both_trainers_learn_the_same_merges_from_prose_code_and_chinese(corpus: list[str]) -> None:
    for texts in (corpus, [corpus[2]], ["".join(corpus)], corpus[::-1]):
        merges = train_bpe(texts, 900, native=True)
        assert len(merges) > 50
        assert train_bpe(texts, 900, native=False) == merges


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=40), max_size=4))
@settings(max_examples=60, deadline=None)
def test_both_trainers_split_any_text_alike(texts: list[str]) -> None:
    assert train_bpe(texts, 300, native=True) == train_bpe(texts, 300, native=False)


def test_of_equally_frequent_pairs_the_smaller_ids_come_first() -> None:
    for native in (True, False):
        assert train_bpe(["zx", "ab", "mn", "cd"], 258, native=native) == [b"ab", b"cd"]


def test_training_ends_when_nothing_is_left_to_merge() -> None:
    for native in (True, False):
        assert train_bpe(["aaaa"], 1000, native=native) == [b"aa", b"aaaa"]
        assert train_bpe([], 1000, native=native) == []


def test_without_rustbpe_the_written_out_trainer_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train_bpe(["the theatre there"], 262)
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    assert train_bpe(["the theatre there"], 262) == expected


def test_lone_surrogates_do_not_stop_training() -> None:
    for native in (True, False):
        assert "\ufffd".encode() in train_bpe(["a\ud800"] * 3, 300, native=native)


def test_ranks_encode_as_the_merges_in_order_do(corpus: list[str]) -> None:
    """tiktoken knows only the bytes of a token, not of which pair it was made: the ids must be the same."""
    tokens, pairs = train_by_definition(corpus, 500)
    ranks = {token: rank for rank, token in enumerate([bytes([value]) for value in range(256)] + tokens)}
    assert len(ranks) == 256 + len(tokens)
    for text in ["the thethe foxes aaaa zip(ids)", *corpus]:
        merged: list[int] = []
        for word in regex.findall(SPLIT_PATTERN, text):
            ids = list(word.encode())
            for new_id, pair in enumerate(pairs, 256):
                ids = merge_pair(ids, pair, new_id)
            merged += ids
        assert list(encode_reference(text, ranks, SPLIT_PATTERN)) == merged


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="256 or more"):
        train_bpe(["text"], 255)


def test_progress_rises_to_the_end() -> None:
    seen: list[tuple[float, float]] = []
    texts = [f"word{number} and some more words" for number in range(100)]
    train_bpe(texts, 300, progress=lambda done, total: seen.append((done, total)), native=False)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (1.0, 1.0)
    assert len(seen) > 50
