"""Embedded dialogues: questions about short scenes, sums, facts and small talk, with one right answer each.

Any amount can be made from a seed, and more of it with the same seed begins with the same dialogues. Questions for
tests are apart by construction: one scene in eight, and one question in eight without a scene, chosen by a hash of the
text, is for tests only, and so are the wordings that the library marks as held out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from llm.data.text.dialogues.kinds import (
    KINDS,
    Ask,
    choose,
    draw_fact,
    draw_follow_up,
    draw_refusal,
    draw_scene_ask,
    draw_sum,
    draw_telling,
)
from llm.data.text.dialogues.library import library, text_fingerprint
from llm.data.text.dialogues.scene import Scene, draw_scene
from llm.data.text.stories import tell
from llm.data.text.stories.cast import Draw
from llm.tokenizer.chat_template import Message

VERSION = 4
TEST_SHARE = 8  # one in so many
SCENES = 0.8  # share of dialogues about a scene


@dataclass(frozen=True)
class Split:
    """Which questions a dialogue may ask: those for tests or the others, in known wordings or held-out ones."""

    is_test: bool = False
    held_out: bool = False

    def allows(self, text: str) -> bool:
        """Whether a scene, or a question without one, is of this side."""
        return self.is_test == is_for_tests(text)


TRAIN, KNOWN_WORDINGS, NEW_WORDINGS = Split(), Split(is_test=True), Split(is_test=True, held_out=True)


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `text` is what the user writes, the scene included in the first turn."""

    text: str
    ask: Ask


@dataclass(frozen=True)
class Question:
    """A test question: the messages up to it, and the answers that are right."""

    kind: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]


def dialogues(seed: int, size_bytes: int) -> Iterator[tuple[Message, ...]]:
    """Conversations for training, with `size_bytes` bytes of text together."""
    draw = random.Random(seed).random
    size = 0
    while size < size_bytes:
        turns = draw_dialogue(draw, TRAIN)
        size += sum(len(turn.text) + len(turn.ask.answer) for turn in turns)
        yield messages_of(turns)


def fingerprint() -> str:
    """Changes whenever the same seed would give other dialogues."""
    return f"{VERSION} {text_fingerprint()}"


def questions(split: Split, count: int, seed: int) -> list[Question]:
    """`count` different test questions, as many of each kind as possible. Every preceding answer is the right one."""
    draw = random.Random(f"questions {seed}").random
    found: dict[tuple[str, ...], Question] = {}
    while len(found) < count:
        kind = KINDS[len(found) % len(KINDS)]
        turns = draw_dialogue(draw, split)
        places = [place for place, turn in enumerate(turns) if turn.ask.kind == kind]
        if places:
            place = choose(places, draw)
            ask = turns[place].ask
            messages = (*messages_of(turns[:place]), Message("user", turns[place].text))
            key = tuple(message.content for message in messages)
            found[key] = Question(kind, messages, (ask.answer, ask.short) if ask.short else (ask.answer,))
    return list(found.values())


def messages_of(turns: list[Turn]) -> tuple[Message, ...]:
    """The turns as messages of the user and the assistant."""
    return tuple(
        message for turn in turns for message in (Message("user", turn.text), Message("assistant", turn.ask.answer))
    )


def draw_dialogue(draw: Draw, split: Split) -> list[Turn]:
    """Up to ten turns, about a scene or about this and that, no question twice."""
    scene = draw_scene(draw) if draw() < SCENES else None
    while scene is not None and not split.allows(scene.text):
        scene = draw_scene(draw)
    turns: list[Turn] = []
    for _ in range(4 + int(draw() * 7)):
        ask, text = draw_question(turns[-1].ask if turns else None, scene, split, draw)
        if all(ask != turn.ask for turn in turns):
            turns.append(Turn(f"{scene.text} {text}" if scene is not None and not turns else text, ask))
    return turns


def draw_question(previous: Ask | None, scene: Scene | None, split: Split, draw: Draw) -> tuple[Ask, str]:
    """A question and its text, of this side of the split."""
    while True:
        ask = draw_ask(previous, scene, draw)
        text = word(ask, split, draw)
        is_about_scene = scene is not None and ask.kind not in ("sum", "fact")
        if is_about_scene or ask.kind == "talk" or split.held_out or split.allows(text):
            return ask, text


def draw_ask(previous: Ask | None, scene: Scene | None, draw: Draw) -> Ask:
    """The next question of a dialogue."""
    number = draw()
    if scene is None:
        if number < 0.45:
            return draw_sum(draw)
        if number < 0.85:
            return draw_fact(draw)
        return draw_refusal(None, draw) if number < 0.9 else draw_talk(draw)
    if number < 0.35:
        return draw_telling(scene, draw)
    if number < 0.5 and previous is not None:
        follow_up = draw_follow_up(previous, scene, draw)
        if follow_up is not None:
            return follow_up
    if number > 0.96:
        return draw_sum(draw) if draw() < 0.5 else draw_fact(draw)
    return draw_refusal(scene, draw) if number > 0.86 else draw_scene_ask(scene, draw)


def draw_talk(draw: Draw) -> Ask:
    """Small talk."""
    index = int(draw() * len(library().talk))
    return Ask("talk", f"talk {index}", {}, tell((library().talk[index][1],), {}, draw))


def word(ask: Ask, split: Split, draw: Draw) -> str:
    """The text of a question, in one of its wordings."""
    if ask.kind == "talk":
        return tell((library().talk[int(ask.wording.split()[1])][0],), {}, draw)
    wordings = library().held_out if split.held_out else library().wordings
    return tell((wordings[ask.wording],), dict(ask.roles), draw)


def is_for_tests(text: str) -> bool:
    """Whether a text is on the side of the tests."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % TEST_SHARE == 0
