"""The embedded corpus: short stories in simple English, and questions and answers about them.

Any amount of it can be made from a seed, no two documents are alike, and more of it with the same seed begins with the
same documents. About two in five are a story alone; the others hold turns as well, in the form a chat can use:
questions about the story just told, a wish for a story answered by one, or small talk.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterator

from llm.data.text.stories.cast import HE, SHE, Draw, draw_roles, plural
from llm.data.text.stories.grammar import Template, parts_of, write
from llm.data.text.stories.library import Frame, Question, library, text_fingerprint
from llm.tokenizer.chat_template import STORIES_TEMPLATE

VERSION = 1

ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def stories(seed: int, size_bytes: int) -> Iterator[str]:
    """Documents, ASCII, each ending with a line break, until together they have at least `size_bytes` bytes."""
    draw = random.Random(seed).random
    seen: set[bytes] = set()
    size = 0
    while size < size_bytes:
        text = draw_document(draw)
        mark = hashlib.blake2b(text.encode(), digest_size=10).digest()
        if mark in seen:
            continue
        seen.add(mark)
        size += len(text)
        yield text


def fingerprint() -> str:
    """Changes whenever the same seed would give other documents."""
    return f"{VERSION} {text_fingerprint()}"


def words(text: str) -> list[str]:
    """The words of a text in lower case; "Lily's" counts as "lily"."""
    return [word.removesuffix("'s") for word in WORD.findall(text.lower())]


@functools.cache
def vocabulary() -> frozenset[str]:
    """Every word that the stories can use, in lower case, as `words` finds them."""
    told = [line for frame in library().frames for paragraph in frame.paragraphs for line, _ in paragraph]
    asked = [question for frame in library().frames for question in frame.questions] + list(library().talk)
    templates = told + [part for question in asked for part in (question.question, question.answer)]
    templates += [option for choice in library().shared.values() for option in choice.options]
    found = {part for template in templates for part in parts_of(template) if isinstance(part, str)}
    lists = [*library().words.values(), *(v for frame in library().frames for v in frame.narrowed.values())]
    found |= {value for values in lists for value in values} | set(map(plural, library().words["foods"]))
    found |= {*HE.values(), *SHE.values(), "an", "girl", "boy", "question", "answer"}
    return frozenset(word for text in found for word in words(text))


def draw_document(draw: Draw) -> str:
    """One document."""
    kind = draw()
    if kind < 0.42:
        blocks = draw_story(draw, turns=0)
    elif kind < 0.74:
        blocks = draw_story(draw, turns=1 + int(draw() * 3))
    elif kind < 0.93:
        blocks = [*draw_talk(draw, int(draw() * 2.4)), *draw_story(draw, turns=int(draw() * 3), asked_for=True)]
    else:
        blocks = draw_talk(draw, 3 + int(draw() * 4))
    return "\n\n".join(blocks) + "\n"


def draw_story(draw: Draw, turns: int, asked_for: bool = False) -> list[str]:
    """A story and `turns` questions about it, as blocks of text."""
    frame = library().frames[int(draw() * len(library().frames))]
    roles = draw_roles(library().words, frame.narrowed, draw)
    blocks = [tell_paragraph(frame, number, roles, draw) for number in range(len(frame.paragraphs))]
    if draw() < 0.12:
        blocks.append(tell(shared("end"), roles, draw))
    if asked_for:
        blocks[0] = write_turn(tell(shared("request"), roles, draw), blocks[0])
    return blocks + [turn(question, roles, draw) for question in draw_questions(frame, turns, draw)]


def tell_paragraph(frame: Frame, number: int, roles: dict[str, str], draw: Draw) -> str:
    lines = (tell(line, roles, draw) for line, optional in frame.paragraphs[number] if not optional or draw() < 0.5)
    return " ".join(filter(None, lines))


def draw_questions(frame: Frame, count: int, draw: Draw) -> list[Question]:
    """Mostly who the story is about, then some of the frame's own, in their order."""
    questions = [Question(shared("who-question"), shared("who-answer"))] if draw() < 0.75 else []
    wanted = min(count, len(frame.questions) + len(questions))
    left = list(frame.questions)
    while len(left) + len(questions) > wanted and left:
        left.pop(int(draw() * len(left)))
    return (questions + left)[:wanted]


def draw_talk(draw: Draw, turns: int) -> list[str]:
    """Turns about this and that, no question twice."""
    chosen: list[Question] = []
    while len(chosen) < turns:
        question = library().talk[int(draw() * len(library().talk))]
        if question not in chosen:
            chosen.append(question)
    return [turn(question, {}, draw) for question in chosen]


def turn(question: Question, roles: dict[str, str], draw: Draw) -> str:
    return write_turn(tell(question.question, roles, draw), tell(question.answer, roles, draw))


def write_turn(question: str, answer: str) -> str:
    """A question and its answer, as the chat template writes them."""
    before, after = STORIES_TEMPLATE.before, STORIES_TEMPLATE.after
    return f"{before['user']}{question}{after['user']}{before['assistant']}{answer}"


def tell(template: Template, roles: dict[str, str], draw: Draw) -> str:
    """The text of a template, with "an" where a vowel follows and no spaces to spare."""
    out: list[str] = []
    write(template, roles, draw, out)
    return ARTICLE.sub(r"\1n ", "".join(out).strip().replace("  ", " "))


def shared(name: str) -> Template:
    return (library().shared[name],)
