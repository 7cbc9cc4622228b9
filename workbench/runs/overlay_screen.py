"""The curves of several runs on one set of axes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from llm.run import Run
from workbench.charts.chart import Chart
from workbench.charts.chart_data import COLORS
from workbench.charts.curve_cache import read_curves
from workbench.charts.curves import AXES, RunCurves
from workbench.charts.run_charts import OVERLAYS, overlay
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

MAX_RUNS = len(COLORS)
READING = "Reading the logs"
REFRESH_SECONDS = 1.0


class OverlayScreen(Modal[None]):
    """One chart; keys change the metric and the x axis."""

    NAME = "Overlay"
    GUIDE = (
        "The marked runs on the same axes. v shows the next metric, u changes the x axis. Compare runs with different "
        "tokenizers by bits per byte, not by loss. Runs in training are updated."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="overlay.back", key_display="esc"),
        Binding("v", "metric(1)", "Next metric", id="overlay.quantity"),
        Binding("V", "metric(-1)", "Previous metric", id="overlay.quantity-before", show=False),
        Binding("u", "unit", "X axis", id="overlay.unit"),
    ]
    DEFAULT_CSS = """
    OverlayScreen { background: $background; layout: vertical;
        #overlay-note { height: 1; padding: 0 1; color: $foreground-muted; }
    }
    """

    @dataclass
    class Reading(Message):
        """The share of the logs that has been read."""

        share: float

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.curves = [RunCurves(run) for run in runs[:MAX_RUNS]]
        self.metric = OVERLAYS[0]
        self.unit = "step"
        self.all_read = False
        """Whether everything logged before the window opened has been read."""
        self._read = threading.Lock()

    def compose(self) -> ComposeResult:
        yield Chart(self.metric.title, smoothing=0.8, empty=READING, alone=True, id="overlay-chart")
        yield Static(id="overlay-note", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.chart.focus()
        self.set_interval(REFRESH_SECONDS, self.poll_logs)
        self.poll_logs()

    @property
    def chart(self) -> Chart:
        return self.query_one(Chart)

    @work(thread=True, group="overlay", exit_on_error=False)
    def poll_logs(self) -> None:
        """Read new events, in a thread: the logs may be long."""
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
        """Read what was logged so far, each log from the position in the cache."""
        for place, curves in enumerate(self.curves):

            def progress(share: float, place: int = place) -> bool:
                self.post_message(self.Reading((place + share) / len(self.curves)))
                return self.is_attached

            self.curves[place] = read_curves(curves.run, progress)
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
        """Draw the curves read so far."""
        chart = self.chart
        chart.border_title = self.metric.title
        if self.all_read:
            chart.empty = "No events logged"
        chart.set_data(overlay(self.metric, self.curves, self.unit, COLORS), x_unit=self.unit)
        self._say()

    def _say(self) -> None:
        """Show the x axis, and the runs without curves."""
        note = f"x axis: {AXES[self.unit].label}"
        empty = [one.name for one in self.chart.data.series if not len(one.x)]
        if not self.all_read:
            note = f"{self.chart.empty}; {note}"
        elif empty:
            note += f"; no curve yet: {', '.join(empty)}"
        self.query_one("#overlay-note", Static).update(note)

    def action_metric(self, by: int) -> None:
        self.metric = OVERLAYS[(OVERLAYS.index(self.metric) + by) % len(OVERLAYS)]
        self.show()

    def action_unit(self) -> None:
        names = list(AXES)
        self.unit = names[(names.index(self.unit) + 1) % len(names)]
        self.show()
