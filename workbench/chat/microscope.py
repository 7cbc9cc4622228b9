"""The data of the microscope. Runs in the chat's worker thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from workbench.chat.conversation import Exchange
from workbench.chat.model import ChatModel

if TYPE_CHECKING:
    from llm.sampling import Stage


@dataclass
class Explained(Message):
    """Token `at` of a reply: its distribution before and after each logits processor.

    `texts`: all tokens of the reply as displayed; `names`: those of the distribution, by id.
    """

    at: int
    texts: Sequence[str]
    stages: Sequence[Stage]
    names: Mapping[int, str]


def explain_token(exchange: Exchange, at: int, chat_model: ChatModel, top: int) -> Explained:
    """Explain token `at` of a reply with the weights that wrote it. Raises UserError."""
    begun = min(at, exchange.given)
    params = exchange.params_at(at)
    stages = chat_model.explain(
        chat_model.prompt_ids(exchange.start, params, exchange.tokens[:begun]),
        params,
        generated=exchange.tokens[begun:at],
        also=[exchange.tokens[at]],
        top=top,
    )
    ids = {token for stage in stages for token, _ in stage.top}
    names = {token: chat_model.quote(token) for token in ids}
    return Explained(at, chat_model.token_texts(exchange.tokens), stages, names)
