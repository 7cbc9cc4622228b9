"""Writing a kept reply once more, and saying whether it came out the same; keeping the step that wrote one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError
from llm.run import Run
from workbench.chat.conversation import Exchange

if TYPE_CHECKING:
    from workbench.chat.models import Talker


@dataclass
class Replayed(Message):
    """What became of a replay, in words; `same` says whether every token came again."""

    number: int
    same: bool
    words: str


def scripted(exchange: Exchange) -> Callable[[], DecodeConfig]:
    """The knobs token by token, as they were when the reply was written."""
    token = exchange.given - 1

    def params() -> DecodeConfig:
        nonlocal token
        token += 1
        return exchange.params_at(token)

    return params


def replay(exchange: Exchange, talker: Talker, cancelled: Callable[[], bool]) -> Replayed:
    """Write `exchange` again with `talker`, which holds the weights it was written with. Raises UserError."""
    from llm.engine import Piece

    given = exchange.tokens[: exchange.given]
    tokens, text = list(given), talker.text_of(given)
    length = len(exchange.tokens)

    def enough() -> bool:
        return cancelled() or (exchange.reason == "cancelled" and len(tokens) >= length)

    source = scripted(exchange)
    for item in talker.stream(exchange.start, exchange.params, cancel=enough, params_source=source, given=given):
        if isinstance(item, Piece) and item.sample == 0:
            text += item.text
            if item.token_id is not None:
                tokens.append(item.token_id)
    if cancelled():
        return Replayed(exchange.number, False, "the replay was stopped")
    return compared(exchange, tokens, text, talker.device)


@dataclass
class StepKept(Message):
    """The weights that wrote a reply are kept, in words."""

    words: str


def keep_step(home: Path, model: str, talker: Talker | None) -> StepKept:
    """Keep the weights of `model` (RUN@STEP): pin the checkpoint that holds them, or write down those that `talker`,
    the open model, has of a run in training. Raises UserError."""
    name, _, step = model.rpartition("@")
    run = Run.open(home, name)
    if any(str(info.step) == step for info in run.checkpoints()):
        run.update_meta(pins=sorted({*run.meta()["pins"], int(step)}))
        return StepKept(f"{model} is a checkpoint, pinned from now on")
    if not any(str(info.step) == step for info in run.kept()):
        if talker is None or talker.name != model:
            raise UserError(
                f"{model} was not saved, and the chat has newer weights by now: K keeps those of the last reply."
            )
        try:
            talker.keep()
        except OSError as error:
            raise UserError(f"{model} cannot be kept ({error.strerror or error}); make room on the disk.") from error
    return StepKept(f"{model} is kept: its replies can be replayed at any time")


def compared(exchange: Exchange, tokens: list[int], text: str, device: str) -> Replayed:
    """Whether a replay is what was written before; if not, from where on."""
    if exchange.kind == "turn":
        text = text.lstrip()
    if tokens == exchange.tokens and text == exchange.reply:
        return Replayed(exchange.number, True, f"replayed: the same {len(tokens)} tokens, exactly")
    pairs = zip(tokens, exchange.tokens, strict=False)
    same = next((at for at, (new, old) in enumerate(pairs) if new != old), min(len(tokens), len(exchange.tokens)))
    why = f"; it was written on {exchange.device}, this is {device}" if device != exchange.device else ""
    return Replayed(exchange.number, False, f"replayed, but it differs from token {same + 1} on{why}")
