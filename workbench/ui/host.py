"""What screens, windows and widgets may ask of the app. They know this protocol, never the app itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from pathlib import Path

    from textual.dom import DOMNode
    from textual.screen import Screen

    from llm.run import Run
    from workbench.charts.curves import RunCurves
    from workbench.data.corpora import Entry
    from workbench.serve.service import ServeService
    from workbench.train.queue import RunQueue
    from workbench.train.service import TrainingService
    from workbench.ui.settings import Settings


@dataclass(frozen=True)
class Destination:
    """A main screen, or a window that the command palette opens. `create` imports its class only when it is called;
    `help` is one line for the palette; `key` opens a main screen from everywhere."""

    id: str
    name: str
    help: str
    create: Callable[[], Screen[Any]]
    key: str = ""


class Host(Protocol):
    """The app as its screens see it. A model reference is `RUN`, `RUN@last`, `RUN@best`, `RUN@STEP`, or `RUN@live` for
    the model in training. The methods return at once."""

    home: Path
    training: TrainingService
    queue: RunQueue
    serving: ServeService
    settings: Settings

    @property
    def training_line(self) -> str:
        """The state of the training in one line."""

    @property
    def screens(self) -> Sequence[Destination]:
        """The main screens, in the order of their keys."""

    @property
    def windows(self) -> Sequence[Destination]:
        """The windows that the command palette opens."""

    @property
    def waits_for_other(self) -> str:
        """The run in another process whose end the queue waits for; "" for none."""

    async def action_show(self, mode: str) -> None:
        """Switch to the main screen of this id."""

    def open_train(self, run_name: str) -> None:
        """Show the curves of a run."""

    def open_chat(self, reference: str) -> None:
        """Chat with a checkpoint, or with the model in training."""

    def open_presets(self, corpus: Entry) -> None:
        """Use a corpus for the selected preset."""

    def enqueue(self, run: Run) -> None:
        """Add a run to the queue. Raises `UserError` where it cannot be added."""

    def begin_next(self) -> None:
        """Start the next run of the queue."""

    def hand_over(self) -> object:
        """Save the training of this program and continue it in a background process."""

    def show_training(self, curves: RunCurves) -> None:
        """Update the status line from these curves, if they belong to the run in training."""

    def change_settings(self, settings: Settings) -> None:
        """Apply settings and save them."""


def host_of(node: DOMNode) -> Host:
    """The app that `node` belongs to."""
    return cast("Host", node.app)
