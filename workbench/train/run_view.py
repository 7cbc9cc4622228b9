"""One run: its numbers, curves, samples and log, kept up to date."""

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
from llm.events import CommandRefused, Event, Finished, RolledBack, Sampled, Skipped, Started, Warned
from llm.run import Run, list_runs
from workbench.charts.curve_cache import read_curves
from workbench.charts.curves import AXES, RunCurves
from workbench.runs.catalog import has_curves, why_unreadable
from workbench.text import clean
from workbench.train.chart_grid import ChartGrid
from workbench.train.compare_dialog import MAX_OTHERS, ChooseRuns
from workbench.train.machine_line import MachineLine
from workbench.train.narration import describe
from workbench.train.panels import Numbers, Samples, event_line
from workbench.ui.host import Host, host_of
from workbench.ui.notices import notify_error

POLL_SECONDS = 0.1
DRAW_SECONDS = 1.0  # while a thread of this program trains: drawing costs training steps
DRAW_SECONDS_ELSEWHERE = 0.25
DRAW_SHARE = 0.01  # at most, of the time of a thread that trains in this program
MAX_DRAW_SECONDS = 5.0
HOLDER_SECONDS = 1.0
CLOCK_FROM = 160  # columns of the terminal from which the log shows the time of day
FIRST_EVENTS = 400  # lines of history in the event log when a run is opened
NOTICE_AFTER_SECONDS = 0.5
LONG_LOG_BYTES = 1 << 20  # a log with more unread bytes is read in a thread, so that keys respond

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
        """A long log is being read; `share` of it is done, which took `seconds`."""

        name: str
        share: float
        seconds: float = 0.0

    @dataclass
    class OthersListed(Message):
        """The names of the other runs that have curves."""

        names: list[str]

    @dataclass
    class OthersRead(Message):
        """The runs to compare with were read."""

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
            notify_error(self.app, why_unreadable(error))
            return
        self._show_run(RunCurves(run))

    def _show_run(self, curves: RunCurves) -> None:
        self.curves = curves
        self.others = [other for other in self.others if other.run.name != curves.run.name]
        self.pending.clear()
        self._checked_at = 0.0
        self._set_state("none")
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
        """Open the run in training here, else the newest run, if no run is shown. If the shown run has ended when the
        screen is shown again, open a run that was started since."""
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
        """Read a long log from where its cache ends."""
        worker, began = get_current_worker(), time.monotonic()

        def progress(share: float) -> bool:
            self.post_message(self.Reading(run.name, share, time.monotonic() - began))
            return not worker.is_cancelled

        curves = read_curves(run, progress)
        if not worker.is_cancelled:
            self.post_message(self.CaughtUp(curves))

    def on_run_view_reading(self, message: Reading) -> None:
        if self._reading and self.subject == message.name:
            self.query_one(Numbers).show_reading(message.name, message.share, message.seconds)

    def on_run_view_caught_up(self, message: CaughtUp) -> None:
        """Show the log that was read, and follow it."""
        if self.subject != message.curves.run.name:
            return
        self._reading = False
        self.curves = message.curves
        self._rewrite_log()
        self._show_samples()
        self._tick(at_once=True)

    # --- following

    def resume(self) -> None:
        """The screen is shown again."""
        self._open_something()
        self._tick(at_once=True)

    def _tick(self, at_once: bool = False) -> None:
        """Read new events. Draw rarely, only what is visible, and only if something changed."""
        self._check_other_training()
        if self.curves is None or self._reading or not (self.screen.is_current or at_once):
            return
        events = self.curves.poll()
        self._stale = self._stale or bool(events)
        for event in events[-FIRST_EVENTS:]:
            self._handle_event(event)
        now = time.monotonic()
        if now - self._checked_at >= HOLDER_SECONDS or any(isinstance(event, Finished) for event in events):
            self._checked_at = now
            self._check_state()
        if at_once or (self._stale and now - self._drawn_at >= self.redraw_seconds):
            self._stale, self._drawn_at = False, now
            self._draw()

    @property
    def redraw_seconds(self) -> float:
        """Seconds between redraws: from the settings, else from the cost of drawing."""
        if self.workbench.settings.redraws_per_second:
            return 1 / self.workbench.settings.redraws_per_second
        if self.workbench.training.active != self.subject:
            return DRAW_SECONDS_ELSEWHERE
        cost = self._draw_cost + self.charts.draw_cost
        return min(max(DRAW_SECONDS, cost / DRAW_SHARE), MAX_DRAW_SECONDS)

    @property
    def subject(self) -> str:
        """The name of the run that is shown, "" for none."""
        return self.curves.run.name if self.curves is not None else ""

    def _handle_event(self, event: Event) -> None:
        """Show an event in the log and the samples, and remove the pending command that it answers."""
        answered = self.pending.pop(getattr(event, "command_id", ""), None)
        if isinstance(event, CommandRefused) and event.command == "stop":  # detaching stops the run, too
            self.pending.pop("detach", None)
        if answered is not None:
            self._drawn_at = 0.0
        self._log(event)
        if isinstance(event, Sampled | Started | RolledBack):  # the last two discard later samples
            self._show_samples()

    def _log(self, event: Event) -> None:
        """Write an event to the log, unless it only changes numbers."""
        text = describe(event)
        if text:
            style = "bold red" if isinstance(event, Warned | CommandRefused | Skipped) else ""
            line = event_line(event, clean(text), style, clock=self.app.size.width >= CLOCK_FROM)
            self.query_one("#event-log", RichLog).write(line)

    def _rewrite_log(self) -> None:
        """Write the whole log again, wrapped for its current width."""
        assert self.curves is not None
        self.query_one("#event-log", RichLog).clear()
        for event in self.curves.recent:
            self._log(event)

    def _check_state(self) -> None:
        """Update the state of the run, which decides which keys work."""
        assert self.curves is not None
        run = self.curves.run
        for identity in [*self.pending]:
            if refusal := self.workbench.training.refusal(identity):  # which a log on a full disk does not hold
                self.pending.pop(identity)
                self.draw_again()
                self.notify(clean(refusal), title=clean(run.name), severity="error", markup=False)
        if self.workbench.training.active == run.name or run.holder() is not None:
            self._set_state("paused" if self.curves.paused else "preparing" if self.curves.is_preparing else "running")
        else:
            self._stale = self._stale or bool(self.pending)
            self.pending.clear()
            self._set_state("ended" if run.path.is_dir() else "gone")

    def _check_other_training(self) -> None:
        """Update which other run trains here, which decides whether a key shows it."""
        active = self.workbench.training.active or ""
        other = active if active != self.subject else ""
        if other != self.other_training:
            self.other_training = other
            self.refresh_bindings()

    def _set_state(self, state: RunState) -> None:
        if state != self.state:
            self.state = state
            self._stale = True
            self.refresh_bindings()

    def check_soon(self) -> None:
        """Check the state at the next tick."""
        self._checked_at = 0.0

    def add_pending(self, identity: str, label: str) -> None:
        """Show that a command was sent, until its answer comes."""
        self.pending[identity] = label
        self.draw_again()

    def _show_samples(self) -> None:
        assert self.curves is not None
        self.query_one(Samples).show(list(self.curves.samples))

    def value_of(self, path: str) -> object:
        """The current value of a live setting: the last one set, else that of the configuration."""
        assert self.curves is not None
        return self.curves.settings.get(path, get_value(self.config, path))

    # --- drawing

    def _draw(self) -> None:
        assert self.curves is not None
        began = time.thread_time()
        for other in self.others:
            other.poll()
        is_base = self.config.tune.stage == "pretrain" and self.curves.step > 0
        hint = "press F to fine-tune" if is_base and self.state == "ended" else ""
        self.query_one(Numbers).show(self.curves, self.state, list(self.pending.values()), hint)
        self.workbench.show_training(self.curves)
        empty = "waiting for the first step" if self.state in ("preparing", "running") else "no data logged"
        self.charts.draw(self.curves, self.others, self.axis, float(str(self.value_of("train.clip"))), empty)
        self._draw_cost = time.thread_time() - began

    def on_resize(self) -> None:
        self.call_after_refresh(self._fit_to_size)

    def _fit_to_size(self) -> None:
        self.draw_again()
        width = self.query_one("#event-log").size.width
        if width != self._log_width and self.curves is not None and not self._reading:
            self._log_width = width
            self._rewrite_log()

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

    # --- other runs

    def choose_others(self) -> None:
        """Choose runs whose curves are drawn with those of this one."""
        self._list_others(self.workbench.home, self.subject)

    @work(thread=True, exclusive=True, group="find other runs")
    def _list_others(self, home: Path, subject: str) -> None:
        """List the other runs with curves, in a thread: it opens a file of each run."""
        worker, names, notify_at = get_current_worker(), [], time.monotonic() + NOTICE_AFTER_SECONDS
        for run in list_runs(home):
            if worker.is_cancelled:
                return
            if run.name != subject and has_curves(run):
                names.append(run.name)
            if time.monotonic() > notify_at:
                self.notify("Searching for runs with curves…", markup=False)
                notify_at = math.inf
        self.post_message(self.OthersListed(names))

    def on_run_view_others_listed(self, message: OthersListed) -> None:
        if not self.screen.is_current:  # another screen or window was opened meanwhile
            return
        if not message.names:
            self.notify("No other run has curves to compare with", markup=False)
            return
        self.app.push_screen(ChooseRuns(message.names, [other.run.name for other in self.others]), self._compare_with)

    def _compare_with(self, names: Sequence[str] | None) -> None:
        if names is not None:
            home = self.workbench.home
            self._read_others([Run(home / "runs" / name) for name in names[:MAX_OTHERS]])

    @work(thread=True, exclusive=True, group="read other runs")
    def _read_others(self, runs: Sequence[Run]) -> None:
        worker = get_current_worker()
        others = [read_curves(run, lambda share: not worker.is_cancelled) for run in runs]
        if not worker.is_cancelled:
            self.post_message(self.OthersRead(others))

    def on_run_view_others_read(self, message: OthersRead) -> None:
        self.others = [other for other in message.others if other.run.name != self.subject]
        self.draw_again()
