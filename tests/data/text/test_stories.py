"""The embedded corpus."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from llm.data.text import stories
from llm.data.text.stories.cast import HE, SHE, WOMEN, draw_roles
from llm.data.text.stories.grammar import Choice, Slot, parse, parts_of
from llm.data.text.stories.library import library
from llm.tokenizer.chat_template import STORIES_TEMPLATE, Message

TEN_MB = 10_000_000


@pytest.fixture(scope="module")
def ten_mb() -> list[str]:
    return list(stories.stories(1, TEN_MB))


def test_ten_megabytes_without_two_alike(ten_mb: list[str]) -> None:
    documents = ten_mb
    assert TEN_MB <= sum(map(len, documents)) < TEN_MB + 4000
    assert len(set(documents)) == len(documents) > 10_000


def test_same_seed_same_text_and_more_starts_alike() -> None:
    few, more = list(stories.stories(7, 20_000)), list(stories.stories(7, 60_000))
    assert more[: len(few)] == few
    assert list(stories.stories(8, 20_000))[:5] != few[:5]


def test_text_is_plain(ten_mb: list[str]) -> None:
    text = "".join(ten_mb)
    assert text.isascii()
    assert not re.search(r"[\[\]{}<>|~=]", text), "a template's own signs were written out"
    assert "  " not in text
    assert " \n" not in text
    assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [b-df-hj-np-tv-z]", text)
    assert not re.search(r"[.!?] [a-z]", text.replace('!" ', "").replace('?" ', "")), "a sentence begins small"
    assert not re.search(r"\b(\w+) \1\b(?!s)", re.sub(r"(up|on|thought|pulled|dug|in) (and \1|\1)", "", text))


def test_vocabulary_is_exactly_what_is_written(ten_mb: list[str]) -> None:
    written = Counter(word for document in ten_mb for word in stories.words(document))
    assert set(written) <= stories.vocabulary()
    assert len(stories.vocabulary() - set(written)) <= 5
    assert 800 <= len(written) <= 1500
    assert sum(1 for count in written.values() if count < 20) < 10, "words too rare to be learnt"


def test_many_begin_with_once(ten_mb: list[str]) -> None:
    openings = Counter(document.split()[0] for document in ten_mb)
    assert openings["Once"] > 0.35 * len(ten_mb)
    assert openings["Question:"] > 0.15 * len(ten_mb)


def test_turns_have_the_format_a_chat_uses(ten_mb: list[str]) -> None:
    for document in ten_mb[:2000]:
        for block in document.strip().split("\n\n"):
            if "Question:" in block or "Answer:" in block:
                question, answer = re.fullmatch(r"Question: (.+)\nAnswer: (.+)", block).groups()  # type: ignore[union-attr]
                turn = [Message("user", question), Message("assistant", answer)]
                assert "".join(piece.text for piece in STORIES_TEMPLATE.pieces(turn)) == block + "\n\n"
                assert block.startswith(STORIES_TEMPLATE.render_prompt(turn[:1]))
    assert f"\n\n{STORIES_TEMPLATE.before['user']}".startswith(STORIES_TEMPLATE.stop)


def test_who_is_the_story_about_names_its_hero(ten_mb: list[str]) -> None:
    asked = 0
    for document in ten_mb:
        answer = re.search(r"Question: Who is th[a-z ]+ story about\?\nAnswer: .*?([A-Z]\w+)\.", document)
        if answer:
            asked += 1
            assert document.count(answer[1]) >= 3
            assert answer[1] in document.partition("Once")[2][:200] or "Once" not in document
    assert asked > 1000


def test_stories_fit_a_small_context(ten_mb: list[str]) -> None:
    lengths = sorted(map(len, ten_mb))
    assert lengths[len(lengths) // 2] < 1000
    assert lengths[-1] < 2000


def test_at_least_25_frames_of_many_variants() -> None:
    frames = library().frames
    assert len({frame.name for frame in frames}) == len(frames) >= 25
    for frame in frames:
        variants = 1
        for paragraph in frame.paragraphs:
            for line, _ in paragraph:
                variants *= count(line)
        assert variants > 100_000, frame.name
        assert len(frame.questions) >= 3, frame.name


def test_every_slot_is_a_role_of_every_story() -> None:
    for frame in library().frames:
        roles = draw_roles(library().words, frame.narrowed, lambda: 0.3)
        asked = [part for question in frame.questions for part in (question.question, question.answer)]
        for line in [line for paragraph in frame.paragraphs for line, _ in paragraph] + asked:
            assert {part.role for part in parts_of(line) if isinstance(part, Slot)} <= roles.keys(), frame.name


@pytest.mark.parametrize("value", [0.0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_pronouns_fit_and_friends_differ(value: float) -> None:
    words = library().words
    numbers = iter([value, 1 - value] * 100)
    roles = draw_roles(words, {}, lambda: min(next(numbers), 0.999))
    is_girl = roles["Name"] in (*words["girls"], *words["she_animals"])
    assert [roles["he"], roles["His"]] == (["she", "Her"] if is_girl else ["he", "His"])
    assert roles["fhe"] != roles["he"]
    assert (roles["ehe"] == "she") == (roles["elder"] in WOMEN)
    assert roles["kind"] == "girl" or roles["kind"] != roles["fkind"]
    assert set(HE) == set(SHE)


def test_grammar_refuses_what_is_not_closed() -> None:
    shared = {"x": Choice((("a",),))}
    assert parse("[a|[b|]c] <x>", shared) == (Choice((("a",), (Choice((("b",), ())), "c"))), " ", shared["x"])
    for wrong in ("[a|b", "a]b", "<y>", "{a b}"):
        with pytest.raises(ValueError):
            parse(wrong, shared)


def count(template: tuple[object, ...]) -> int:
    """How many texts a template can write, roles aside."""
    total = 1
    for part in template:
        if isinstance(part, Choice):
            total *= sum(count(option) for option in part.options)
    return total
