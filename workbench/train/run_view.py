"""Watching a run learn: its curves, its samples and its log, kept up to date."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import RichLog
from textual.worker import get_current_worker

from llm.config import RunConfig, get_value
from llm.errors import UserError
from llm.events import CommandRefused, Event, Finished, Sampled, Skipped, Warned
from llm.run import Run, list_runs
from workbench.charts.curve_cache import WORTH_BYTES, caught_up, keep, recall
from workbench.charts.curves import AXES, RunCurves
from workbench.runs.catalog import has_curves, why_unreadable
from workbench.text import clean
from workbench.train.chart_grid import ChartGrid
from workbench.train.compare_dialog import MOST_BESIDE, ChooseRuns
from workbench.train.machine_line import MachineLine
from workbench.train.narration import describe
from workbench.train.panels import Numbers, Samples, event_line
from workbench.ui.host import Host, host_of

POLL_SECONDS = 0.1
DRAW_SECONDS = 1.0  # while a thread of this program trains, drawing is paid for in training steps
DRAW_SECONDS_ELSEWHERE = 0.25
DRAW_SHARE = 0.01  # of the time, at most, that goes into drawing while a thread of this program trains
DRAW_SECONDS_MOST = 5.0
HOLDER_SECONDS = 1.0
CLOCK_FROM = 160  # columns of the terminal from which on there is room for the time of day
FIRST_EVENTS = 400  # lines of history put into the event log when a run is opened
SILENT_SECONDS = 0.5  # what takes longer is announced
LONG_LOG_BYTES = 1 << 20  # a log with more than this unread is read in a thread, so that the keys still work

RunState = Literal["none", "preparing", "running", "paused", "ended", "gone"]


class RunView(Vertical):
    """One run, kept up to date wherever it is trained; the curves of other runs can be drawn with its own."""

    DEFAULT_CSS = "RunView { height: 1fr; }"

    @dataclass
    class CaughtUp(Message):
        """A long log was read."""

        curves: RunCurves

    @dataclass
    class Reading(Message):
        """A long log is being read; `share` of it is done."""

        name: str
        share: float

    @dataclass
    class OthersFound(Message):
        """The names of the other runs that have curves."""

        names: list[str]

    @dataclass
    class OthersRead(Message):
        """The runs to be laid beside the one that is shown were read."""

        others: list[RunCurves]

    def __init__(self) -> None:
        super().__init__()
        self.curves: RunCurves | None = None
        self.others: list[RunCurves] = []
        self.config = RunConfig()
        self.state: RunState = "none"
        self.pending: dict[str, str] = {}
        """Commands without an answer yet: their names by their ids."""
        self.other_training = ""
        """The run in training in this program, where another one is shown."""
        self._active_when_opened: str | None = None
        """The run in training in this program when the shown one was opened."""
        self.was_left = False
        """Whether another main screen has been shown since."""
        self.axis = "step"
        self._drawn_at = 0.0
        self._draw_cost = 0.0
        self._checked_at = 0.0
        self._stale = False
        self._reading = False
        self._log_width = 0

    def compose(self) -> ComposeResult:
        yield Numbers(id="numbers")
        yield MachineLine(id="machine")
        yield ChartGrid(id="charts")
        with Horizontal(id="below"):
            yield Samples(id="samples")
            yield RichLog(id="event-log", wrap=True, markup=False, highlight=False, max_lines=2000, min_width=20)

    @property
    def workbench(self) -> Host:
        return host_of(self)

    @property
    def charts(self) -> ChartGrid:
        return self.query_one(ChartGrid)

    def on_mount(self) -> None:
        self.query_one("#event-log", RichLog).border_title = "log"
        self.set_interval(POLL_SECONDS, self._tick)

    # --- opening a run

    def open_run(self, name: str) -> None:
        """Show the run called `name`, from its first event on."""
        self._active_when_opened = self.workbench.training.active
        if self.curves is not None and self.curves.run.name == name and self.state != "gone":
            return
        try:
            run = Run.open(self.workbench.home, name)
            self.config = run.config()
            run.status()  # so that it is known whether its log can be read
        except (UserError, OSError) as error:
            self.notify(clean(why_unreadable(error)), severity="error", markup=False)
            return
        self._begin_anew(RunCurves(run))

    def _begin_anew(self, curves: RunCurves) -> None:
        """Show nothing of the run before, and read this one."""
        self.curves = curves
        self.others = [other for other in self.others if other.run.name != curves.run.name]
        self.pending.clear()
        self._checked_at = 0.0
        self._become("none")
        self.charts.clear()
        self.query_one("#event-log", RichLog).clear()
        self.query_one(Samples).show([])
        self._reading = curves.unread_bytes > LONG_LOG_BYTES
        if self._reading:
            self.on_run_view_reading(self.Reading(curves.run.name, 0.0))
            self._catch_up(curves.run)
        else:
            self._tick(at_once=True)

    def _open_something(self) -> None:
        """Where no run is shown: the one in training here, else the newest. Whoever comes back to a run that has ended
        is led to the training that began meanwhile; an old run that was opened during a training stays."""
        active = self.workbench.training.active
        if self.curves is None:
            newest = next(iter(list_runs(self.workbench.home)), None)
            name = active or (newest.name if newest is not None else "")
            if name:
                self.open_run(name)
        elif active is not None and active != self.subject and self.was_left:
            self._check_state()
            if self.state == "gone" or (self.state == "ended" and active != self._active_when_opened):
                self.open_run(active)

    @work(thread=True, exclusive=True, group="read a long log")
    def _catch_up(self, run: Run) -> None:
        """Read a long log, from where it was left when it was read last."""
        worker = get_current_worker()

        def progress(share: float) -> bool:
            self.post_message(self.Reading(run.name, share))
            return not worker.is_cancelled

        curves = recall(run)
        is_new = curves.unread_bytes > WORTH_BYTES
        curves.catch_up(progress)
        if not worker.is_cancelled:
            self.post_message(self.CaughtUp(curves))
            if is_new:
                keep(curves)

    def on_run_view_reading(self, message: Reading) -> None:
        if self._reading and self.subject == message.name:
            self.query_one(Numbers).say_reading(message.name, message.share)

    def on_run_view_caught_up(self, message: CaughtUp) -> None:
        """The whole log is known: show it, and follow it from here on."""
        if self.subject != message.curves.run.name:
            return
        self._reading = False
        self.curves = message.curves
        self._tell_again()
        self._show_samples()
        self._tick(at_once=True)

    # --- following it

    def resume(self) -> None:
        """The screen is shown again."""
        self._open_something()
        self._tick(at_once=True)

    def _tick(self, at_once: bool = False) -> None:
        """Take in what was logged. Draw seldom, only what is visible, and only when something changed."""
        self._look_for_another()
        if self.curves is None or self._reading or not (self.screen.is_current or at_once):
            return
        events = self.curves.poll()
        self._stale = self._stale or bool(events)
        for event in events[-FIRST_EVENTS:]:
            self._notice(event)
        now = time.monotonic()
        if now - self._checked_at >= HOLDER_SECONDS or any(isinstance(event, Finished) for event in events):
            self._checked_at = now
            self._check_state()
        if at_once or (self._stale and now - self._drawn_at >= self.redraw_seconds):
            self._stale, self._drawn_at = False, now
            self._draw()

    @property
    def redraw_seconds(self) -> float:
        """How long one picture stays: as the person has set it, else as the training can spare."""
        if self.workbench.settings.redraws_per_second:
            return 1 / self.workbench.settings.redraws_per_second
        if self.workbench.training.active != self.subject:
            return DRAW_SECONDS_ELSEWHERE
        cost = self._draw_cost + self.charts.draw_cost
        return min(max(DRAW_SECONDS, cost / DRAW_SHARE), DRAW_SECONDS_MOST)

    @property
    def subject(self) -> str:
        """The name of the run that is shown, "" for none."""
        return self.curves.run.name if self.curves is not None else ""

    def _notice(self, event: Event) -> None:
        """Put an event that tells something into the log, and its sample where samples are."""
        answered = self.pending.pop(getattr(event, "command_id", ""), None)
        if isinstance(event, CommandRefused) and event.command == "stop":  # a hand-over begins with a stop, too
            self.pending.pop("detach", None)
        if answered is not None:
            self._drawn_at = 0.0
        self._tell(event)
        if isinstance(event, Sampled):
            self._show_samples()

    def _tell(self, event: Event) -> None:
        """Put a line into the log, where there is something to tell."""
        text = describe(event)
        if text:
            style = "bold red" if isinstance(event, Warned | CommandRefused | Skipped) else ""
            line = event_line(event, clean(text), style, clock=self.app.size.width >= CLOCK_FROM)
            self.query_one("#event-log", RichLog).write(line)

    def _tell_again(self) -> None:
        """Write the lines of the log anew: they keep the width for which they were wrapped."""
        assert self.curves is not None
        self.query_one("#event-log", RichLog).clear()
        for event in self.curves.told:
            self._tell(event)

    def _check_state(self) -> None:
        """Whether somebody trains the run; decides which keys work."""
        assert self.curves is not None
        run = self.curves.run
        if self.workbench.training.active == run.name or run.holder() is not None:
            self._become("paused" if self.curves.paused else "preparing" if self.curves.is_preparing else "running")
        else:
            self._stale = self._stale or bool(self.pending)
            self.pending.clear()
            self._become("ended" if run.path.is_dir() else "gone")

    def _look_for_another(self) -> None:
        """Whether another run than this one trains here; decides whether a key leads to it."""
        active = self.workbench.training.active or ""
        other = active if active != self.subject else ""
        if other != self.other_training:
            self.other_training = other
            self.refresh_bindings()

    def _become(self, state: RunState) -> None:
        if state != self.state:
            self.state = state
            self._stale = True
            self.refresh_bindings()

    def check_soon(self) -> None:
        """Look at the next tick whether the run is trained."""
        self._checked_at = 0.0

    def add_pending(self, identity: str, label: str) -> None:
        """Show that a command was sent, until its answer comes."""
        self.pending[identity] = label
        self.draw_again()

    def _show_samples(self) -> None:
        assert self.curves is not None
        self.query_one(Samples).show(list(self.curves.samples))

    def knob_value(self, path: str) -> object:
        """The value of a live knob as it is in effect: the last one set, else the run's own."""
        assert self.curves is not None
        return self.curves.knobs.get(path, get_value(self.config, path))

    # --- drawing

    def _draw(self) -> None:
        assert self.curves is not None
        began = time.thread_time()
        for other in self.others:
            other.poll()
        self.query_one(Numbers).show(self.curves, self.state, list(self.pending.values()))
        self.workbench.show_training(self.curves)
        empty = "waiting for the first step" if self.state in ("preparing", "running") else "nothing was logged"
        self.charts.draw(self.curves, self.others, self.axis, float(str(self.knob_value("train.clip"))), empty)
        self._draw_cost = time.thread_time() - began

    def on_resize(self) -> None:
        self.call_after_refresh(self._fit_to_size)

    def _fit_to_size(self) -> None:
        self.draw_again()
        width = self.query_one("#event-log").size.width
        if width != self._log_width and self.curves is not None and not self._reading:
            self._log_width = width
            self._tell_again()

    @on(ChartGrid.Revealed)
    def draw_again(self) -> None:
        """Draw what is in view; hidden charts are not kept up to date."""
        if self.curves is not None and not self._reading:
            self._draw()

    def show_next_axis(self) -> None:
        """Draw the charts over tokens, over training time, or over steps."""
        units = list(AXES)
        self.axis = units[(units.index(self.axis) + 1) % len(units)]
        self.draw_again()

    # --- other runs beside it

    def choose_others(self) -> None:
        """Choose runs whose curves are drawn with those of this one."""
        self._find_others(self.workbench.home, self.subject)

    @work(thread=True, exclusive=True, group="find other runs")
    def _find_others(self, home: Path, subject: str) -> None:
        """Look for runs with curves: many are many files to look into."""
        worker, names, tell_at = get_current_worker(), [], time.monotonic() + SILENT_SECONDS
        for run in list_runs(home):
            if worker.is_cancelled:
                return
            if run.name != subject and has_curves(run):
                names.append(run.name)
            if time.monotonic() > tell_at:
                self.notify("looking for runs with curves …", markup=False)
                tell_at = math.inf
        self.post_message(self.OthersFound(names))

    def on_run_view_others_found(self, message: OthersFound) -> None:
        if not self.screen.is_current:  # another screen or window was opened meanwhile
            return
        if not message.names:
            self.notify("there is no other run with curves to lay beside this one", markup=False)
            return
        self.app.push_screen(ChooseRuns(message.names, [other.run.name for other in self.others]), self._lay_beside)

    def _lay_beside(self, names: Sequence[str] | None) -> None:
        if names is not None:
            home = self.workbench.home
            self._read_others([Run(home / "runs" / name) for name in names[:MOST_BESIDE]])

    @work(thread=True, exclusive=True, group="read other runs")
    def _read_others(self, runs: Sequence[Run]) -> None:
        worker = get_current_worker()
        others = [caught_up(run, lambda share: not worker.is_cancelled) for run in runs]
        if not worker.is_cancelled:
            self.post_message(self.OthersRead(others))

    def on_run_view_others_read(self, message: OthersRead) -> None:
        self.others = [other for other in message.others if other.run.name != self.subject]
        self.draw_again()
