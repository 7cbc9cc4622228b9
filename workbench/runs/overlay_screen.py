"""The curves of several runs on one set of axes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from llm.run import Run
from workbench.charts.chart import COLOURS, Chart, Series
from workbench.charts.curve_cache import caught_up
from workbench.charts.curves import RunCurves
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

MOST = len(COLOURS)
READING = "reading the logs"
REFRESH_SECONDS = 1.0
QUANTITIES = {
    "validation_loss": "validation loss (nats per token)",
    "loss": "training loss (nats per token)",
    "bits_per_byte": "bits per byte of held-out text",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
}
UNITS = {"step": "step", "tokens": "tokens_seen", "time": "elapsed"}


class OverlayScreen(Modal[None]):
    """One chart; keys change what it shows and over what."""

    NAME = "Overlay"
    GUIDE = (
        "The marked runs on one set of axes. v goes to the next quantity, u to the next x axis; bits per byte compare "
        "across tokenizers, losses do not. Runs in training go on growing."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="overlay.back", key_display="esc"),
        Binding("v", "quantity(1)", "Next quantity", id="overlay.quantity"),
        Binding("V", "quantity(-1)", "Quantity before", id="overlay.quantity-before", show=False),
        Binding("u", "unit", "Steps, tokens, time", id="overlay.unit"),
    ]
    DEFAULT_CSS = """
    OverlayScreen { background: $background; layout: vertical;
        #overlay-note { height: 1; padding: 0 1; color: $foreground-muted; }
    }
    """

    @dataclass
    class Reading(Message):
        """The logs are being read; `share` of them is done."""

        share: float

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.curves = [RunCurves(run) for run in runs[:MOST]]
        self.quantity = "validation_loss"
        self.unit = "step"
        self.all_read = False
        """Whether all is read that had been logged when the window opened."""
        self._read = threading.Lock()

    def compose(self) -> ComposeResult:
        yield Chart(QUANTITIES[self.quantity], smoothing=0.8, empty=READING, alone=True, id="overlay-chart")
        yield Static(id="overlay-note", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.chart.focus()
        self.set_interval(REFRESH_SECONDS, self.read_on)
        self.read_on()

    @property
    def chart(self) -> Chart:
        return self.query_one(Chart)

    @work(thread=True, group="overlay", exit_on_error=False)
    def read_on(self) -> None:
        """Take in what was logged, outside the screen's thread: the logs may be long."""
        if not self._read.acquire(blocking=False):
            return
        try:
            if not self.all_read:
                self._read_all()
            for curves in self.curves:
                while curves.poll() and self.is_attached:
                    pass
        finally:
            self._read.release()
        if self.is_attached:
            self.app.call_from_thread(self.show)

    def _read_all(self) -> None:
        """Read what was logged so far, each log from where it was left when it was read last."""
        for place, curves in enumerate(self.curves):

            def progress(share: float, place: int = place) -> bool:
                self.post_message(self.Reading((place + share) / len(self.curves)))
                return self.is_attached

            self.curves[place] = caught_up(curves.run, progress)
            if self.is_attached:
                self.app.call_from_thread(self.show)
        self.all_read = True

    def on_overlay_screen_reading(self, message: Reading) -> None:
        if not self.all_read:
            self.chart.empty = f"{READING}, {message.share:.0%}"
            if self.chart.data.is_empty:
                self.chart.redraw()
            self._say()

    def show(self) -> None:
        """Draw what is known."""
        chart = self.chart
        chart.border_title = QUANTITIES[self.quantity]
        if self.all_read:
            chart.empty = "nothing was logged"
        chart.set_data([self.series(place) for place in range(len(self.curves))], x_unit=self.unit)
        self._say()

    def _say(self) -> None:
        """What the curves are drawn over, and what is not there yet."""
        note = f"over {'tokens seen' if self.unit == 'tokens' else 'training time' if self.unit == 'time' else 'steps'}"
        empty = [one.name for one in self.chart.data.series if not len(one.x)]
        if not self.all_read:
            note = f"{self.chart.empty}; {note}"
        elif empty:
            note += f"; nothing logged yet by {', '.join(empty)}"
        self.query_one("#overlay-note", Static).update(note)

    def series(self, place: int) -> Series:
        """The curve of one run."""
        curves, colour = self.curves[place], COLOURS[place]
        if self.quantity in curves.steps.columns:
            table = curves.steps
            return Series(curves.run.name, table[UNITS[self.unit]], table[self.quantity], colour)
        table = curves.validation
        x = table["step"] if self.unit == "step" else self._converted(curves, table["step"])
        return Series(curves.run.name, x, table[self.quantity], colour, smooth=False)

    def _converted(self, curves: RunCurves, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tokens or seconds at the steps of evaluations, between those of the logged steps."""
        if not len(curves.steps):
            return np.zeros_like(steps)
        known = curves.steps["step"]
        values = curves.steps[UNITS[self.unit]]
        found = np.interp(steps, np.concatenate([[0.0], known]), np.concatenate([[0.0], values]))
        return np.asarray(found, dtype=np.float64)

    def action_quantity(self, by: int) -> None:
        names = list(QUANTITIES)
        self.quantity = names[(names.index(self.quantity) + by) % len(names)]
        self.show()

    def action_unit(self) -> None:
        names = list(UNITS)
        self.unit = names[(names.index(self.unit) + 1) % len(names)]
        self.show()
