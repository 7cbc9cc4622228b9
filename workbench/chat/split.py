"""Two checkpoints on the same prompt, and one prompt at every checkpoint: on the chat's thread, told in messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from textual.message import Message

from llm.config import DecodeConfig
from llm.run import Run
from workbench.charts.curves import RunCurves
from workbench.chat.conversation import Exchange
from workbench.chat.models import run_name
from workbench.chat.replay import scripted

if TYPE_CHECKING:
    from llm.engine import Piece
    from llm.engine.compare import Comparison
    from llm.engine.timelapse import Frame
    from workbench.chat.service import ChatService

Post = Callable[[Message], object]


@dataclass
class SideNamed(Message):
    """Which weights a side has now; `given` is text that both begin with, after the prompt."""

    side: int
    name: str
    given: str


@dataclass
class SideGrew(Message):
    """A side has written on."""

    side: int
    text: str


@dataclass
class SplitDone(Message):
    """Both sides are written and measured."""

    comparison: Comparison


def split(exchange: Exchange, other: str, service: ChatService, cancelled: Callable[[], bool], post: Post) -> SplitDone:
    """Have the weights that wrote `exchange`, and those that `other` names, write on from its prompt, and the tokens
    that the person chose, with its knobs as they changed and its seed. Raises UserError."""
    from llm.engine.compare import compare

    own = service.talker_for(exchange.model, exchange.sha256, cancelled, keep=True)
    against = service.another(other, cancelled)
    chosen = exchange.tokens[: exchange.given]
    given = own.text_of(chosen)
    post(SideNamed(0, own.name, given))
    post(SideNamed(1, against.name, given))

    def grew(side: int, piece: Piece) -> None:
        if piece.text:
            post(SideGrew(side, piece.text))

    found = compare(
        (own.engine, against.engine),
        exchange.context + given,
        exchange.params,
        tokens=[*own.prompt_ids(exchange.start, exchange.params), *chosen],
        params_source=lambda: scripted(exchange),
        cancel=cancelled,
        on_piece=grew,
    )
    return SplitDone(found)


@dataclass
class LapseBegan(Message):
    """The curves of a run: steps and losses, each (N,), of training and of validation."""

    steps: NDArray[np.float64]
    losses: NDArray[np.float64]
    validated: NDArray[np.float64]
    validation_losses: NDArray[np.float64]


@dataclass
class FrameCame(Message):
    """One checkpoint's text."""

    frame: Frame


@dataclass
class LapseEnded(Message):
    """There are no more frames."""


def lapse(
    run: Run, prompts: Sequence[str], params: DecodeConfig, cancelled: Callable[[], bool], post: Post
) -> LapseEnded:
    """Post the curves of `run`, then what each of its checkpoints writes on from `prompts`. Raises UserError."""
    from llm.engine.timelapse import timelapse

    curves = RunCurves(run)
    while curves.poll() and not cancelled():
        pass  # the log is read in pieces
    training, checks = curves.steps, curves.validation
    columns = (training["step"], training["loss"], checks["step"], checks["validation_loss"])
    post(LapseBegan(*(column.copy() for column in columns)))
    for frame in timelapse(run, prompts, params, cancel=cancelled):
        post(FrameCame(frame))
    return LapseEnded()


def lapse_prompts(run: Run, picked: Exchange | None) -> list[str]:
    """What a time-lapse of `run` writes on from: the prompt picked out, the pinned ones, else the run's own sample."""
    from llm.engine.timelapse import pinned_prompts

    first = [picked.context] if picked is not None else []
    found = [*first, *pinned_prompts(run)] or [run.config().sample.prompt]
    return list(dict.fromkeys(found))


def run_of(home: Path, reference: str) -> Run:
    """The run of `RUN` or `RUN@STEP`. Raises UserError."""
    return Run.open(home, run_name(reference))
