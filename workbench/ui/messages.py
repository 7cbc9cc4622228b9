"""Messages from services and threads to the app. Only handlers change the screen."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class TrainingEnded(Message):
    """The training of `run_name` in this program has ended; `problem` is why it failed, "" if it did not."""

    run_name: str
    problem: str = ""


@dataclass
class TorchReady(Message):
    """PyTorch is loaded; `problem` is why it could not be, or ""."""

    problem: str = ""
