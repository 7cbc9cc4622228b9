"""What the microscope shows of one token of a reply. Works on the chat's thread, where the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from workbench.chat.conversation import Exchange

if TYPE_CHECKING:
    from llm.sampling import Stage
    from workbench.chat.models import Talker


@dataclass
class Explained(Message):
    """Token number `at` of a reply: the distribution it was drawn from, before and after each transformation.

    `texts` are all tokens of the reply as they are shown, `names` those of the distribution, by id.
    """

    at: int
    texts: Sequence[str]
    stages: Sequence[Stage]
    names: Mapping[int, str]


def explain_token(exchange: Exchange, at: int, talker: Talker, top: int) -> Explained:
    """Look at token `at` of a reply, and the `top` likeliest, with the weights that wrote it. Raises UserError."""
    begun = min(at, exchange.given)
    stages = talker.explain(
        exchange.start,
        exchange.params_at(at),
        given=exchange.tokens[:begun],
        generated=exchange.tokens[begun:at],
        also=[exchange.tokens[at]],
        top=top,
    )
    ids = {token for stage in stages for token, _ in stage.top}
    return Explained(at, talker.shown(exchange.tokens), stages, {token: talker.quoted(token) for token in ids})
