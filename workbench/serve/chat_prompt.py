"""Conversations as prompts."""

from __future__ import annotations

from collections.abc import Sequence

from llm.tokenizer.chat_template import ChatTemplate
from workbench.serve.parse import Turn


def render_chat(turns: Sequence[Turn], template: ChatTemplate | None) -> str:
    """The text of a conversation up to where the next answer begins.

    A model without a template continues the conversation as plain text: an answer is the continuation of the message
    before it, and a blank line precedes every later message.
    """
    if template is None:
        text = "".join(content if role == "assistant" else f"\n\n{content}" for role, content in turns)
        return text.removeprefix("\n\n")
    history: list[tuple[str, str]] = []
    question: list[str] = []
    for role, content in turns:
        if role == "assistant":
            history.append(("\n".join(question), content))
            question = []
        else:
            question.append(content)
    return template.render_prompt(history, "\n".join(question))
