"""Conversations as prompts."""

from __future__ import annotations

from collections.abc import Sequence

from llm.engine import prompt_ids
from llm.tokenizer import Tokenizer
from llm.tokenizer.chat_template import ChatTemplate, Message


def encode_chat(tokenizer: Tokenizer, template: ChatTemplate | None, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation up to where the next answer begins.

    A model without a template continues the conversation as plain text: an answer is the continuation of the message
    before it, and a blank line precedes every later message.
    """
    if template is not None:
        return template.prompt_ids(tokenizer, messages)
    parts = (one.content if one.role == "assistant" else f"\n\n{one.content}" for one in messages)
    return prompt_ids(tokenizer, "".join(parts).removeprefix("\n\n"))
