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
from workbench.services.conversation import Exchange
from workbench.services.talker import ask_to_save

if TYPE_CHECKING:
    from workbench.services.talker import Talker


@dataclass
class Replayed(Message):
    """What became of a replay, in words; `same` says whether every token came again."""

    number: int
    same: bool
    words: str


def scripted(exchange: Exchange) -> Callable[[], DecodeConfig]:
    """The knobs token by token, as they were when the reply was written."""
    token = exchange.given - 1

    def knobs() -> DecodeConfig:
        nonlocal token
        token += 1
        return exchange.knobs_at(token)

    return knobs


def replay(exchange: Exchange, talker: Talker, cancelled: Callable[[], bool]) -> Replayed:
    """Write `exchange` again with `talker`, which holds the weights it was written with. Raises UserError."""
    from llm.engine import Piece

    given = exchange.tokens[: exchange.given]
    tokens, text = list(given), talker.text_of(given)
    length = len(exchange.tokens)

    def enough() -> bool:
        return cancelled() or (exchange.reason == "cancelled" and len(tokens) >= length)

    source = scripted(exchange)
    for item in talker.stream(exchange.context, exchange.knobs, cancel=enough, knobs_source=source, given=given):
        if isinstance(item, Piece) and item.sample == 0:
            text += item.text
            if item.token_id is not None:
                tokens.append(item.token_id)
    if cancelled():
        return Replayed(exchange.number, False, "the replay was stopped")
    return compared(exchange, tokens, text, talker.device)


@dataclass
class StepKept(Message):
    """A checkpoint was saved and pinned, in words."""

    words: str


def keep_step(home: Path, model: str, cancelled: Callable[[], bool]) -> StepKept:
    """Have the run in training that wrote as `model` (RUN@STEP) save, and pin what it saved. Raises UserError.

    The trainer saves the step it is at when it reads the order, which may be a little later than the reply's.
    """
    name, _, step = model.rpartition("@")
    run = Run.open(home, name)
    kept = next((info.step for info in run.checkpoints() if str(info.step) == step), None)
    if kept is None:
        if run.holder() is None:
            raise UserError(f"{name} is no longer in training, and step {step} was not saved; it cannot be kept.")
        kept = ask_to_save(run, "save", cancelled).step
    run.update_meta(pins=sorted({*run.meta()["pins"], kept}))
    later = kept - int(step)
    return StepKept(f"kept and pinned {name}@{kept}" + (f", {later} steps after the reply" if later else ""))


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
