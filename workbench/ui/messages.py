"""Facts the workbench's services and screens tell the app. Handlers change the screen; senders never do."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class TrainingEnded(Message):
    """The training of `run_name` in this program is over; `problem` says why, where it failed."""

    run_name: str
    problem: str = ""


@dataclass
class TorchReady(Message):
    """The training code is loaded; `problem` says why not, where it could not be."""

    problem: str = ""
