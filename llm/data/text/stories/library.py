"""The story templates in `text/*.txt`, read and parsed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from llm.data.text.stories.grammar import Choice, Shared, Template, parse

FRAME_FILES = ("frames-home", "frames-friends", "frames-animals", "frames-outside", "frames-wonder")
OTHER_FILES = ("words", "shared", "talk")


@dataclass(frozen=True)
class Question:
    """A question and its answers, as templates."""

    question: Template
    answer: Template


@dataclass(frozen=True)
class Frame:
    """One story: paragraphs of lines. An optional line is written half of the time."""

    name: str
    narrowed: Mapping[str, tuple[str, ...]]
    paragraphs: tuple[tuple[tuple[Template, bool], ...], ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Library:
    """All templates and word lists."""

    words: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, Choice]
    frames: tuple[Frame, ...]
    talk: tuple[Question, ...]


@functools.cache
def library() -> Library:
    """The library, parsed at the first call. ValueError names what cannot be parsed."""
    shared = parse_shared(read("shared"))
    frames = tuple(frame for name in FRAME_FILES for frame in parse_frames(read(name), shared))
    talk = tuple(parse_question(line, shared) for line in content_lines(read("talk")))
    return Library(parse_words(read("words")), shared, frames, talk)


def read(name: str) -> str:
    return resources.files(__package__).joinpath("text", f"{name}.txt").read_text(encoding="utf-8")


def text_fingerprint() -> str:
    """sha256 of all the texts."""
    joined = "\0".join(read(name) for name in (*FRAME_FILES, *OTHER_FILES))
    return hashlib.sha256(joined.encode()).hexdigest()


def content_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def parse_words(text: str) -> dict[str, tuple[str, ...]]:
    """Lines of "name: a, b, c"."""
    pairs = (line.split(": ", 1) for line in content_lines(text))
    return {name: tuple(values.split(", ")) for name, values in pairs}


def parse_shared(text: str) -> dict[str, Choice]:
    """Passages with the heading "= name"; a passage may use those above it."""
    shared: dict[str, Choice] = {}
    name = ""
    for line in content_lines(text):
        if line.startswith("= "):
            name = line[2:]
            shared[name] = Choice(())
        else:
            shared[name] = Choice((*shared[name].options, parse(line, shared)))
    return shared


def parse_frames(text: str, shared: Shared) -> Iterator[Frame]:
    """Stories with the heading "# name"; the text before the first empty line describes the file."""
    _, *bodies = ("\n" + text.split("\n\n", 1)[1]).split("\n# ")
    for body in bodies:
        head, *blocks = body.strip().split("\n\n")
        name, *roles = head.split("\n")
        stories = [block for block in blocks if not block.startswith("? ")]
        questions = [line for block in blocks if block.startswith("? ") for line in block.splitlines()]
        yield Frame(
            name,
            parse_words("\n".join(roles)),
            tuple(tuple(parse_line(line, shared) for line in block.splitlines()) for block in stories),
            tuple(parse_question(line.removeprefix("? "), shared) for line in questions),
        )


def parse_line(line: str, shared: Shared) -> tuple[Template, bool]:
    """A line and whether it is optional. Half of the time, "He" at the start of a sentence is replaced by the name: a
    small model learns to keep a name by seeing it often."""
    text = line.removeprefix("~ ").strip().replace("{He} ", "[{He}|{Name}] ")
    return parse(text, shared), line.startswith("~ ")


def parse_question(line: str, shared: Shared) -> Question:
    question, answer = line.split(" = ", 1)
    return Question(parse(question, shared), parse(answer.replace(" | ", "|"), shared))
