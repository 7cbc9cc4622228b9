"""Replay a reply and compare it with the original; save the weights that wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError, reason_of
from llm.run import Run
from workbench.chat.conversation import Exchange
from workbench.chat.model import ChatModel
from workbench.chat.weights import Cancel


@dataclass
class Replayed(Message):
    """The result of a replay; `same`: whether all tokens are equal."""

    number: int
    same: bool
    text: str


def recorded_params(exchange: Exchange) -> Callable[[], DecodeConfig]:
    """A params source that repeats the parameters of every token of `exchange`."""
    token = exchange.given - 1

    def params() -> DecodeConfig:
        nonlocal token
        token += 1
        return exchange.params_at(token)

    return params


def replay(exchange: Exchange, chat_model: ChatModel, cancel: Cancel) -> Replayed:
    """Generate `exchange` again with `chat_model`, which must have the same weights. Raises UserError."""
    from llm.engine import Piece

    given = exchange.tokens[: exchange.given]
    tokens, text = list(given), chat_model.text_of(given)
    length = len(exchange.tokens)

    def is_done() -> bool:
        return cancel() or (exchange.reason == "cancelled" and len(tokens) >= length)

    source = recorded_params(exchange)
    for item in chat_model.stream(exchange.start, exchange.params, cancel=is_done, params_source=source, given=given):
        if isinstance(item, Piece) and item.sample == 0:
            text += item.text
            if item.token_id is not None:
                tokens.append(item.token_id)
    if cancel():
        return Replayed(exchange.number, False, "Replay stopped.")
    return compare_replay(exchange, tokens, text, chat_model.device)


@dataclass
class StepSaved(Message):
    """The weights that wrote a reply are saved or pinned."""

    text: str


def save_step(home: Path, model: str, chat_model: ChatModel | None) -> StepSaved:
    """Keep the weights of `model` (RUN@STEP): pin their checkpoint, or save them from `chat_model`, the open model of a
    run in training. Raises UserError."""
    name, _, step = model.rpartition("@")
    run = Run.open(home, name)
    if any(str(info.step) == step for info in run.checkpoints()):
        run.update_meta(pins=sorted({*run.meta()["pins"], int(step)}))
        return StepSaved(f"{model} is a checkpoint; it is now pinned.")
    if not any(str(info.step) == step for info in run.kept()):
        if chat_model is None or chat_model.name != model:
            raise UserError(
                f"{model} was not saved, and the open model has newer weights; K saves those of the last reply."
            )
        try:
            chat_model.save_weights()
        except OSError as error:
            raise UserError(f"{model} cannot be saved ({reason_of(error)}); free some disk space.") from error
    return StepSaved(f"{model} is saved; its replies can be replayed.")


def compare_replay(exchange: Exchange, tokens: list[int], text: str, device: str) -> Replayed:
    """Compare a replay with the original reply."""
    if exchange.kind == "turn":
        text = text.lstrip()
    if tokens == exchange.tokens and text == exchange.reply:
        return Replayed(exchange.number, True, f"Replay: all {len(tokens)} tokens are identical.")
    pairs = zip(tokens, exchange.tokens, strict=False)
    same = next((at for at, (new, old) in enumerate(pairs) if new != old), min(len(tokens), len(exchange.tokens)))
    why = f" (original on {exchange.device}, replay on {device})" if device != exchange.device else ""
    return Replayed(exchange.number, False, f"Replay differs from token {same + 1} on{why}.")
