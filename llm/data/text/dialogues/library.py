"""The sentences, wordings and facts of the dialogues in `text/*.txt`, read and parsed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from llm.data.text.stories.grammar import Choice
from llm.data.text.stories.library import library as stories_library
from llm.data.text.stories.library import parse_shared, parse_words

FILES = ("scenes", "wordings", "facts", "talk")
HELD_OUT = ", held out"


@dataclass(frozen=True)
class Library:
    """What dialogues are made of, in addition to the words of the stories.

    `wordings` are for training and for tests, `held_out` for tests only, both by the name of what they ask for.
    `facts`: relation → ((thing, value), …). `talk`: (user's text, answer) pairs that no test asks.
    """

    words: Mapping[str, tuple[str, ...]]
    sentences: Mapping[str, Choice]
    wordings: Mapping[str, Choice]
    held_out: Mapping[str, Choice]
    facts: Mapping[str, tuple[tuple[str, str], ...]]
    talk: tuple[tuple[Choice, Choice], ...]


@functools.cache
def library() -> Library:
    """The library, parsed at the first call. ValueError names what cannot be parsed."""
    sets = parse_shared(read("wordings"))
    talk = parse_shared(read("talk"))
    names = list(talk)
    return Library(
        words=stories_library().words,
        sentences=parse_shared(read("scenes")),
        wordings={name: choice for name, choice in sets.items() if not name.endswith(HELD_OUT)},
        held_out={name.removesuffix(HELD_OUT): choice for name, choice in sets.items() if name.endswith(HELD_OUT)},
        facts={name: parse_pairs(pairs) for name, pairs in parse_words(read("facts")).items()},
        talk=tuple((talk[name], talk[answer]) for name, answer in zip(names[::2], names[1::2], strict=True)),
    )


def read(name: str) -> str:
    return resources.files(__package__).joinpath("text", f"{name}.txt").read_text(encoding="utf-8")


def text_fingerprint() -> str:
    """sha256 of all the texts."""
    return hashlib.sha256("\0".join(map(read, FILES)).encode()).hexdigest()


def parse_pairs(pairs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """("thing = value", …) as pairs."""
    split = (pair.split(" = ", 1) for pair in pairs)
    return tuple((thing, value) for thing, value in split)
