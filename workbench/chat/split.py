"""Jobs of the split view and of the time-lapse. They run in the chat's worker thread and post messages."""

from __future__ import annotations

from collections.abc import Sequence
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
from workbench.chat.model_choices import run_name
from workbench.chat.replay import recorded_params
from workbench.chat.reply import Post
from workbench.chat.service import ChatService
from workbench.chat.weights import Cancel

if TYPE_CHECKING:
    from llm.engine import Piece
    from llm.engine.compare import Comparison
    from llm.engine.timelapse import Frame


@dataclass
class SideStarted(Message):
    """The model of a side is loaded; both replies begin with the text `given`."""

    side: int
    name: str
    given: str


@dataclass
class SideUpdated(Message):
    """New text on a side."""

    side: int
    text: str


@dataclass
class SplitDone(Message):
    """Both replies and their divergence are complete."""

    comparison: Comparison


def split(exchange: Exchange, other: str, service: ChatService, cancel: Cancel, post: Post) -> SplitDone:
    """Generate from the prompt of `exchange` with the weights that wrote it and with `other`, with the same seed,
    parameters (and their changes) and chosen tokens. Raises UserError."""
    from llm.engine.compare import compare

    own = service.model_for(exchange.model, exchange.sha256, cancel, keep=True)
    against = service.open_other(other, cancel)
    chosen = exchange.tokens[: exchange.given]
    given = own.text_of(chosen)
    post(SideStarted(0, own.name, given))
    post(SideStarted(1, against.name, given))

    def grew(side: int, piece: Piece) -> None:
        if piece.text:
            post(SideUpdated(side, piece.text))

    comparison = compare(
        (own.engine, against.engine),
        exchange.context + given,
        exchange.params,
        tokens=own.prompt_ids(exchange.start, exchange.params, chosen),
        params_source=lambda: recorded_params(exchange),
        cancel=cancel,
        on_piece=grew,
    )
    return SplitDone(comparison)


@dataclass
class CurvesLoaded(Message):
    """The loss curves of a run: steps and losses of training and validation, each (N,)."""

    steps: NDArray[np.float64]
    losses: NDArray[np.float64]
    validated: NDArray[np.float64]
    validation_losses: NDArray[np.float64]


@dataclass
class FrameReady(Message):
    """The text of one checkpoint."""

    frame: Frame


@dataclass
class TimeLapseEnded(Message):
    """All frames are complete."""


def run_timelapse(run: Run, prompts: Sequence[str], params: DecodeConfig, cancel: Cancel, post: Post) -> TimeLapseEnded:
    """Post the loss curves of `run`, then a frame per checkpoint and prompt. Raises UserError."""
    from llm.engine.timelapse import timelapse

    curves = RunCurves(run)
    while curves.poll() and not cancel():
        pass  # the log is read in pieces
    training, checks = curves.steps, curves.validation
    columns = (training["step"], training["loss"], checks["step"], checks["validation_loss"])
    post(CurvesLoaded(*(column.copy() for column in columns)))
    for frame in timelapse(run, prompts, params, cancel=cancel):
        post(FrameReady(frame))
    return TimeLapseEnded()


def timelapse_prompts(run: Run, picked: Exchange | None) -> list[str]:
    """The prompts of a time-lapse: the selected one, then the pinned ones; without any, the run's sample prompt."""
    from llm.engine.timelapse import pinned_prompts

    first = [picked.context] if picked is not None else []
    prompts = [*first, *pinned_prompts(run)] or [run.config().sample.prompt]
    return list(dict.fromkeys(prompts))


def open_run(home: Path, reference: str) -> Run:
    """The run of `RUN` or `RUN@STEP`. Raises UserError."""
    return Run.open(home, run_name(reference))
