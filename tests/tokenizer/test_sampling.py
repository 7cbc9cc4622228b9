"""Which text a tokenizer learns from."""

from __future__ import annotations

import random

from llm.config.schema import TokenizerConfig
from llm.tokenizer import build_tokenizer, take_sample

LANGUAGES = {
    "de": "der Hund und die Katze sind da. ",
    "el": "ο σκύλος και η γάτα είναι εδώ. ",
    "ru": "кошка и собака тут. ",
}


def sorted_by_language(size: int) -> list[str]:
    """Documents of one language after the other, `size` bytes of each."""
    return [line for line in LANGUAGES.values() for _ in range(size // len(line.encode()))]


def test_a_text_within_the_budget_is_taken_exactly_as_it_comes() -> None:
    texts = ["a" * 70_000, "b c " * 9000, "", "é" * 10]
    for which in ("spread", "beginning"):
        sample = take_sample(texts, 0.12, which)  # type: ignore[arg-type]
        assert [text for text in sample.texts if text] == [text for text in texts if text]
        assert sample.is_whole
        assert sample.taken_bytes == 106_020


def test_every_part_of_the_corpus_keeps_its_share() -> None:
    texts = sorted_by_language(200_000)
    sample = take_sample(texts, 0.03, "spread")
    assert 20_000 < sample.taken_bytes <= 30_000
    assert sample.read_bytes == sum(len(text.encode()) for text in texts)
    for line in LANGUAGES.values():
        share = sum(len(text.encode()) for text in sample.texts if text == line) / sample.taken_bytes
        assert 0.30 < share < 0.37
    assert sample == take_sample(iter(texts), 0.03, "spread"), "deterministic"


def test_one_long_text_is_sampled_in_places_all_over_it() -> None:
    text = " ".join(f"{number:07d}" for number in range(100_000))
    sample = take_sample([text[i : i + 65536] for i in range(0, len(text), 65536)], 0.08)
    assert 0.06e6 < sample.taken_bytes <= 0.08e6
    places = [int(word) for part in sample.texts for word in part.split() if len(word) == 7]
    assert places == sorted(places), "in the order of the corpus"
    assert max(b - a for a, b in zip([0, *places], [*places, 100_000], strict=True)) < 3000


def test_texts_of_all_sizes_stay_within_the_budget() -> None:
    draw = random.Random(3)
    texts = ["x y " * draw.randrange(1, 5000) for _ in range(200)]
    total = sum(map(len, texts))
    for megabytes in (1e-5, 0.01, 0.3, 1.0):
        sample = take_sample(texts, megabytes)
        assert sample.taken_bytes <= max(megabytes * 1e6, 32)
        assert sample.read_bytes == total
        assert sum(map(len, sample.texts)) == sample.taken_bytes


def test_late_languages_are_learned() -> None:
    texts = sorted_by_language(200_000)
    spread = build_tokenizer(TokenizerConfig(vocab_size=400, train_mb=0.05), texts)
    beginning = build_tokenizer(TokenizerConfig(vocab_size=400, train_mb=0.05, train_sample="beginning"), texts)
    late = LANGUAGES["ru"]
    assert len(beginning.encode(late)) > 0.9 * len(late.encode()), "a byte a token"
    assert len(spread.encode(late)) < 0.3 * len(late.encode())
