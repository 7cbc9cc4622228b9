"""Chat templates: how the turns of a chat are written as text, and where a reply ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChatTemplate:
    """`turn` holds {question} and {answer}; `prompt` is the part of it before the answer. `separator` stands between
    turns; `stop` is the stop string that ends an answer."""

    turn: str
    prompt: str
    separator: str
    stop: str

    def render_turn(self, question: str, answer: str) -> str:
        """One complete turn."""
        return self.turn.format(question=question, answer=answer)

    def render_prompt(self, history: Sequence[tuple[str, str]], question: str) -> str:
        """The (question, answer) pairs of `history` and a new question, up to where the answer begins."""
        turns = [self.render_turn(*turn) for turn in history]
        return self.separator.join([*turns, self.prompt.format(question=question)])


STORIES_TEMPLATE = ChatTemplate(
    turn="Question: {question}\nAnswer: {answer}",
    prompt="Question: {question}\nAnswer:",
    separator="\n\n",
    stop="\n\nQuestion:",
)


def chat_template(corpus: str) -> ChatTemplate | None:
    """The template in which `corpus` writes its turns; None for plain text."""
    return STORIES_TEMPLATE if corpus == "stories" else None
