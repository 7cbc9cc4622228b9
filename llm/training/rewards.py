"""The tasks of reinforcement learning with verifiable rewards: questions, and a function that scores a reply.

The questions are those of the embedded dialogues, with the same division into training and held-out questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from llm.answers import has_right_answer
from llm.config import RunConfig
from llm.data.text.dialogues import KNOWN_WORDINGS, Question, Split, questions, word
from llm.data.text.dialogues.kinds import Ask, ask_person, choose, draw_fact, draw_sum
from llm.data.text.dialogues.scene import draw_scene
from llm.data.text.stories.cast import Draw
from llm.tokenizer.chat_template import Message

MAX_WORDS = 10
QUESTION_SEED = 0  # of the questions asked during training; measure the result with others (`eval --answers --seed`)
ATTEMPTS = 20  # draws per question, since a draw may repeat a question or belong to the other split


@dataclass(frozen=True)
class RewardTask:
    """`draw` returns a question, or None if the one it drew belongs to the other split. `reward` scores a reply from 0
    to 1."""

    draw: Callable[[Split, Draw], Question | None]
    reward: Callable[[str, Question], float]

    def is_solved(self, reply: str, question: Question) -> bool:
        """Whether a reply gets the full reward."""
        return self.reward(reply, question) >= 1


def draw_sum_question(split: Split, draw: Draw) -> Question | None:
    """A sum of two numbers, at most 20."""
    return without_scene(draw_sum(draw), split, draw)


def draw_fact_question(split: Split, draw: Draw) -> Question | None:
    """A fact about the world."""
    return without_scene(draw_fact(draw), split, draw)


def draw_count_question(split: Split, draw: Draw) -> Question | None:
    """How many fruits somebody in a scene had."""
    scene = draw_scene(draw)
    asks = [ask for person in scene.people for ask in ask_person(person) if ask.kind == "count"]
    if not asks or not split.allows(scene.text):
        return None
    ask = choose(asks, draw)
    return question_of(ask, f"{scene.text}\n{word(ask, split, draw)}")


def without_scene(ask: Ask, split: Split, draw: Draw) -> Question | None:
    text = word(ask, split, draw)
    return question_of(ask, text) if split.held_out or split.allows(text) else None


def question_of(ask: Ask, text: str) -> Question:
    return Question(ask.kind, (Message("user", text),), (ask.answer, ask.short))


def exact_reward(reply: str, question: Question) -> float:
    """1 for a right answer, as `llm.answers` judges it."""
    return float(has_right_answer(reply, question))


def format_reward(reply: str, question: Question) -> float:
    """The share of rules that hold: begins with a capital letter or digit; ends with a period; is one sentence; has at
    most `MAX_WORDS` words."""
    rules = (
        re.match(r"[A-Z0-9]", reply) is not None,
        reply.endswith("."),
        len(re.findall(r"[.!?]", reply)) == 1 and "\n" not in reply,
        0 < len(reply.split()) <= MAX_WORDS,
    )
    return sum(rules) / len(rules)


TASKS = {
    "sums": RewardTask(draw_sum_question, exact_reward),
    "counting": RewardTask(draw_count_question, exact_reward),
    "format": RewardTask(draw_fact_question, format_reward),
}
"""The values of `tune.task`."""


def task_questions(name: str, split: Split, count: int, seed: int) -> list[Question]:
    """`count` different questions of a task; fewer where it has no more."""
    draw = random.Random(f"{name} {seed}").random
    drawn: dict[str, Question] = {}
    for _ in range(ATTEMPTS * count):
        question = TASKS[name].draw(split, draw)
        if question is not None:
            drawn.setdefault(question.messages[-1].content, question)
        if len(drawn) == count:
            break
    return list(drawn.values())


def held_out_questions(config: RunConfig) -> list[Question]:
    """The questions whose exact answers are measured during training: those of the task for grpo, else of all kinds."""
    count = config.evaluate.answers_questions
    if config.tune.stage == "grpo":
        return task_questions(config.tune.task, KNOWN_WORDINGS, count, QUESTION_SEED)
    return questions(KNOWN_WORDINGS, count, QUESTION_SEED)
