"""The embedded dialogues: deterministic, right, and apart from the questions that test a model."""

from __future__ import annotations

import re

import pytest

from llm.data.text import dialogues
from llm.data.text.dialogues import KNOWN_WORDINGS, NEW_WORDINGS, Question
from llm.data.text.dialogues.kinds import KINDS
from llm.data.text.dialogues.library import library

SIZE = 600_000
ASKED = 270


@pytest.fixture(scope="module")
def training() -> list[list[str]]:
    """The contents of the messages of some dialogues."""
    return [[message.content for message in row] for row in dialogues.dialogues(1, SIZE)]


@pytest.fixture(scope="module", params=[KNOWN_WORDINGS, NEW_WORDINGS], ids=["known wordings", "new wordings"])
def exam(request: pytest.FixtureRequest) -> list[Question]:
    return dialogues.questions(request.param, ASKED, seed=3)


def test_same_seed_same_dialogues_and_more_starts_alike() -> None:
    few, more = (list(dialogues.dialogues(7, size)) for size in (20_000, 60_000))
    assert more[: len(few)] == few
    assert next(iter(dialogues.dialogues(8, 1000))) != few[0]


def test_turns_alternate_and_text_is_plain(training: list[list[str]]) -> None:
    for row in dialogues.dialogues(2, 50_000):
        roles = [message.role for message in row]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
    text = "\n".join(content for contents in training for content in contents)
    assert text.isascii()
    assert not re.search(r"[\[\]{}<>|~]|  ", text), "a template's own signs were written out"
    assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [b-df-hj-np-tv-z]", text)
    assert len(text) / SIZE > 0.9


def test_no_wording_is_both_known_and_held_out() -> None:
    known = {wording for choice in library().wordings.values() for wording in choice.options}
    held_out = {wording for choice in library().held_out.values() for wording in choice.options}
    assert library().wordings.keys() == library().held_out.keys()
    assert not known & held_out
    assert all(
        len(choice.options) >= 3 * len(library().held_out[name].options) / 2
        for name, choice in library().wordings.items()
    )


def test_no_question_of_a_test_is_trained_on(training: list[list[str]], exam: list[Question]) -> None:
    """Neither its scene nor, where it needs none, its text."""
    asked = {content for contents in training for content in contents[::2]}
    scenes = {content.rpartition(". ")[0] for content in asked if ". " in content}
    assert scenes and not scenes & {question.messages[0].content.rpartition(". ")[0] for question in exam} - {""}
    alone = [question for question in exam if question.kind in ("sum", "fact")]
    last = {question.messages[-1].content.rpartition(". ")[2] for question in alone}
    assert last and not last & {content.rpartition(". ")[2] for content in asked}


def test_new_wordings_do_not_occur_in_training(training: list[list[str]]) -> None:
    """Compared without names, numbers and things, of which the library has lists."""
    words = [word for values in library().words.values() for word in values]
    words += [text for pairs in library().facts.values() for pair in pairs for text in pair]
    slots = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(words, key=len, reverse=True)) + r"|\d+")

    def bare(text: str) -> str:
        return slots.sub("_", text.rpartition(". ")[2])

    known = {bare(content) for contents in training for content in contents[::2]}
    new = {bare(question.messages[-1].content) for question in dialogues.questions(NEW_WORDINGS, ASKED, seed=3)}
    assert len(new) > 50 and not new & known


def test_an_exam_has_all_kinds_alike_and_no_question_twice(exam: list[Question]) -> None:
    counts = [sum(question.kind == kind for question in exam) for kind in KINDS]
    assert max(counts) - min(counts) <= 1 and sum(counts) == ASKED
    assert len({str(question.messages) for question in exam}) == ASKED
    assert all(question.messages[-1].role == "user" for question in exam)


def test_answers_follow_from_the_scene(exam: list[Question]) -> None:
    """Read again with patterns of this test, not with the generator's code."""
    seen = set()
    for question in exam:
        scene, last = (
            question.messages[0].content.rpartition(". ")[0] + ".",
            question.messages[-1].content.rpartition(". ")[2],
        )
        short = question.answers[-1]
        if question.kind == "sum":
            numbers = [int(number) for number in re.findall(r"\d+", last)]
            assert len(numbers) == 2 and sum(numbers) == int(short) <= 20
        elif question.kind in ("what", "where"):
            name = next(name for name in re.findall(r"[A-Z]\w+", last) if f"{name} was " in scene)
            verb = "had" if question.kind == "what" else "was"
            assert re.search(rf"\b{name} {verb} (?:an? )?{short}\.", scene), question
        elif question.kind in ("color", "count"):
            noun = re.match(r"The (?:number of )?(\w+) was", question.answers[0])
            assert noun and re.search(rf"\bhad (?:an? )?{short} {noun[1]}\.", scene), question
        elif question.kind == "who":
            told = [sentence for sentence in scene.split(". ") if sentence.startswith(f"{short} ")]
            assert any(set(re.findall(r"\w+", sentence)) & set(re.findall(r"\w+", last)) - {short} for sentence in told)
        else:
            continue
        seen.add(question.kind)
    assert len(seen) == 6


def test_who_is_refused_does_not_occur(exam: list[Question]) -> None:
    for question in exam:
        if question.kind == "refusal":
            assert question.answers == ("I am sorry, I do not know.",)
