"""Exact answers: the share of held-out questions that a model answers right, by kind of question.

The questions are those of the embedded dialogues for tests. A reply is right if it equals an accepted answer, the
sentence or the answer alone, after the normalization of SQuAD: lower case, without punctuation and articles
(Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from llm.config import DecodeConfig
from llm.data.text.dialogues import Question
from llm.data.text.dialogues.kinds import KINDS
from llm.engine import Engine
from llm.engine.continuous import ContinuousBatch, Request, run_requests
from llm.events import Progress
from llm.tokenizer.chat_template import ChatTemplate

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
MAX_ANSWER_TOKENS = 32
REPORT_EVERY = 50  # questions


@dataclass(frozen=True)
class Answers:
    """The questions asked and answered right of each kind, and one reply to every question, in their order."""

    asked: dict[str, int]
    right: dict[str, int]
    replies: tuple[str, ...]

    @property
    def questions(self) -> int:
        """The number of questions."""
        return len(self.replies)

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return sum(self.right.values()) / max(1, sum(self.asked.values()))

    def accuracy_of(self, kind: str) -> float:
        """The share of right answers to the questions of one kind."""
        return self.right.get(kind, 0) / max(1, self.asked.get(kind, 0))

    def to_record(self) -> dict[str, Any]:
        """The shares as JSON values."""
        return {"accuracy": self.accuracy, "kinds": {kind: self.accuracy_of(kind) for kind in self.asked}}


def has_right_answer(reply: str, question: Question) -> bool:
    """Whether a reply is right."""
    return is_right(reply, question.answers)


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply equals one of the answers after normalization."""
    return normalize(reply) in map(normalize, answers)


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def measure_answers(
    engine: Engine,
    template: ChatTemplate,
    questions: Sequence[Question],
    judge: Callable[[str, Question], bool] = has_right_answer,
) -> Generator[Progress, None, Answers]:
    """Ask every question, with the most likely token at each step, and judge the replies. Yields progress.

    Of a question that leaves no room for the answer in the context, only the end is asked.
    """
    params = DecodeConfig(temperature=0.0, max_tokens=MAX_ANSWER_TOKENS, stop=tuple(filter(None, [template.stop])))
    room = max(1, engine.context - MAX_ANSWER_TOKENS)
    prompts = [template.prompt_ids(engine.tokenizer, each.messages)[-room:] for each in questions]
    requests = [Request(tuple(prompt), params) for prompt in prompts]
    replies = {id(request): "" for request in requests}
    done = 0
    yield Progress(stage="Asking", done=done, total=len(questions), unit="questions")
    for token in run_requests(ContinuousBatch(engine.model, engine.tokenizer), requests):
        replies[id(token.request)] += token.text
        done += bool(token.reason)
        if token.reason and done % REPORT_EVERY == 0:
            yield Progress(stage="Asking", done=done, total=len(questions), unit="questions")
    texts = tuple(replies[id(request)].strip() for request in requests)
    judged = [(question.kind, judge(text, question)) for question, text in zip(questions, texts, strict=True)]
    asked, right = Counter(kind for kind, _ in judged), Counter(kind for kind, is_correct in judged if is_correct)
    kinds = [kind for kind in KINDS if asked[kind]]
    return Answers({kind: asked[kind] for kind in kinds}, {kind: right[kind] for kind in kinds}, texts)
