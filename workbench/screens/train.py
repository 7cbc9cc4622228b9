"""Watching a run learn, and steering it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Horizontal, Vertical
from textual.message import Message
from textual.widgets import RichLog
from textual.worker import get_current_worker

from llm.config import RunConfig, get_value
from llm.errors import UserError
from llm.events import CommandRefused, Event, Finished, Sampled, Skipped, Warned
from llm.run import Run, list_runs
from workbench.messages import TrainingEnded
from workbench.screens.base import WorkbenchScreen
from workbench.screens.knobs import KnobsDialog
from workbench.services.curve_cache import WORTH_BYTES, keep, recall
from workbench.services.curves import AXES, RunCurves
from workbench.services.narration import describe
from workbench.services.training import Overrides
from workbench.text import clean
from workbench.widgets.chart import Chart
from workbench.widgets.dialogs import Answer, Ask, AskText
from workbench.widgets.machine import MachineLine
from workbench.widgets.panels import Numbers, SampleView, event_line
from workbench.widgets.run_charts import CORE, contents

POLL_SECONDS = 0.1
DRAW_SECONDS = 1.0  # while a thread of this program trains, drawing is paid for in training steps
DRAW_SECONDS_ELSEWHERE = 0.25
HOLDER_SECONDS = 1.0
CLOCK_FROM = 160  # columns of the terminal from which on there is room for the time of day
FIRST_EVENTS = 400  # lines of history put into the event log when a run is opened
LONG_LOG_BYTES = 1 << 20  # a log with more than this unread is read in a thread, so that the keys still work

RunState = Literal["none", "preparing", "running", "paused", "ended"]


class TrainScreen(WorkbenchScreen):
    """One run: its curves, its samples, its log, and the keys that steer it."""

    AUTO_FOCUS = ""
    GUIDE = (
        "The curves of one run as it trains. Tab moves between the charts, the samples and the log; on a chart, + and "
        "- zoom, arrows pan, comma and full stop move a cursor that reads values, y makes the axis logarithmic, [ and "
        "] change the smoothing, m gives it the whole screen, u changes the axis to tokens or time. v shows the next "
        "chart where there is room for one only. On the curves: ▪ saved, ● evaluated, ★ best, ◆ knob changed, "
        "✗ step skipped, ↶ gone back. "
        "Stopping saves first; a stopped or finished run can be resumed with r."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="train.pause"),
        Binding("p", "go_on", "Go on", id="train.pause"),
        Binding("s", "command('save')", "Save", id="train.save"),
        Binding("e", "command('evaluate')", "Evaluate", id="train.evaluate"),
        Binding("a", "command('sample')", "Sample", id="train.sample"),
        Binding("t", "tune", "Tune", id="train.tune"),
        Binding("x", "stop", "Stop", id="train.stop"),
        Binding("r", "resume", "Resume", id="train.resume"),
        Binding("c", "chat", "Chat", id="train.chat"),
        Binding("d", "detach", "Detach", id="train.detach", show=False),
        Binding("v", "next_chart", "Next chart", id="train.next-chart", show=False),
        Binding("u", "next_axis", "Steps, tokens, time", id="train.axis", show=False),
        Binding("y", "on_charts('log')", "Log axis", id="chart.log", show=False),
        Binding("m", "on_charts('maximise')", "Maximise", id="chart.maximise", show=False),
        Binding("left_square_bracket", "on_charts('smoothing(-1)')", "Less smooth", id="chart.rougher", show=False),
        Binding("right_square_bracket", "on_charts('smoothing(1)')", "Smoother", id="chart.smoother", show=False),
        Binding("w", "on_charts('export(\"csv\")')", "Save as table (CSV)", id="chart.csv", show=False),
        Binding("W", "on_charts('export(\"svg\")')", "Save as picture (SVG)", id="chart.svg", show=False),
        Binding("escape", "restore", "All charts", id="train.restore", show=False),
    ]

    @dataclass
    class CaughtUp(Message):
        """A long log was read."""

        curves: RunCurves

    @dataclass
    class Reading(Message):
        """A long log is being read; `share` of it is done."""

        name: str
        share: float

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.curves: RunCurves | None = None
        self.config = RunConfig()
        self.state: RunState = "none"
        self.pending: dict[str, str] = {}
        self._drawn_at = 0.0
        self._checked_at = 0.0
        self._stale = False
        self._reading = False
        self.axis = "step"

    def body(self) -> ComposeResult:
        yield Numbers(id="numbers")
        yield MachineLine(id="machine")
        with Grid(id="charts"):
            smoothing = self.workbench.settings.smoothing
            yield Chart("loss (nats per token)", smoothing=smoothing, id="loss-chart", classes="chosen")
            yield Chart("learning rate", id="lr-chart")
            yield Chart("gradient norm", id="norm-chart")
            yield Chart("tokens per second", id="speed-chart")
            yield Chart("CORE metric", id=CORE)
        with Horizontal(id="below"):
            with Vertical(id="samples"):
                yield SampleView("sample", "no sample yet", id="latest-sample")
                yield SampleView("the sample before", "", id="earlier-sample")
            yield RichLog(id="event-log", wrap=True, markup=False, highlight=False, max_lines=2000, min_width=20)

    def on_mount(self) -> None:
        self.query_one("#event-log", RichLog).border_title = "log"
        self.set_interval(POLL_SECONDS, self._tick)
        if self.curves is None:
            active = self.workbench.training.active
            newest = next(iter(list_runs(self.workbench.home)), None)
            if active is not None or newest is not None:
                self.open_run(active or newest.name)  # type: ignore[union-attr]

    def open_run(self, name: str) -> None:
        """Show the run called `name`, from its first event on."""
        if self.curves is not None and self.curves.run.name == name:
            return
        try:
            run = Run.open(self.workbench.home, name)
            self.config = run.config()
        except UserError as error:
            self.notify(clean(str(error)), severity="error", markup=False)
            return
        self.curves = RunCurves(run)
        self.pending.clear()
        self._checked_at = 0.0
        for chart in self.query(Chart):
            chart.action_reset()
            chart.set_data([])
        self.query_one("#event-log", RichLog).clear()
        for view in self.query(SampleView):
            view.show(None)
        self.set_class(False, "-core")
        self._reading = self.curves.unread_bytes > LONG_LOG_BYTES
        if self._reading:
            self.on_train_screen_reading(self.Reading(name, 0.0))
            self._catch_up(run)
        else:
            self._tick(at_once=True)

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

    def on_train_screen_reading(self, message: Reading) -> None:
        if self._reading and self.curves is not None and self.curves.run.name == message.name:
            self.query_one(Numbers).say_reading(message.name, message.share)

    def on_train_screen_caught_up(self, message: CaughtUp) -> None:
        """The whole log is known: show it, and follow it from here on."""
        if self.curves is None or self.curves.run.name != message.curves.run.name:
            return
        self._reading = False
        self.curves = message.curves
        for event in list(self.curves.told):
            self._notice(event)
        self._tick(at_once=True)

    # --- following the run

    def on_screen_resume(self) -> None:
        self._tick(at_once=True)

    def on_training_ended(self, _message: TrainingEnded) -> None:
        self._checked_at = 0.0

    def _tick(self, at_once: bool = False) -> None:
        """Take in what was logged. Draw seldom, only what is visible, and only when something changed."""
        if self.curves is None or self._reading or not (self.is_current or at_once):
            return
        events = self.curves.poll()
        self._stale = self._stale or bool(events)
        for event in events[-FIRST_EVENTS:]:
            self._notice(event)
        now = time.monotonic()
        if now - self._checked_at >= HOLDER_SECONDS or any(isinstance(event, Finished) for event in events):
            self._checked_at = now
            self._check_state()
        if at_once or (self._stale and now - self._drawn_at >= self._draw_seconds):
            self._stale, self._drawn_at = False, now
            self._draw()

    @property
    def _draw_seconds(self) -> float:
        """How long one picture stays: as the person has set it, else as the training can spare."""
        assert self.curves is not None
        if self.workbench.settings.redraws_per_second:
            return 1 / self.workbench.settings.redraws_per_second
        here = self.workbench.training.active == self.curves.run.name
        return DRAW_SECONDS if here else DRAW_SECONDS_ELSEWHERE

    @property
    def subject(self) -> str:
        """What the charts are of, for the names of files."""
        return self.curves.run.name if self.curves is not None else ""

    def _notice(self, event: Event) -> None:
        """Put an event that tells something into the log, and its sample where samples are."""
        answered = self.pending.pop(getattr(event, "command_id", ""), None)
        if answered is not None:
            self._drawn_at = 0.0
        text = describe(event)
        if text:
            style = "bold red" if isinstance(event, Warned | CommandRefused | Skipped) else ""
            line = event_line(event, clean(text), style, clock=self.app.size.width >= CLOCK_FROM)
            self.query_one("#event-log", RichLog).write(line)
        if isinstance(event, Sampled):
            self._show_samples()

    def _check_state(self) -> None:
        """Whether somebody trains the run; decides which keys work."""
        assert self.curves is not None
        running = self.workbench.training.active == self.curves.run.name or self.curves.run.holder() is not None
        state: RunState = "ended"
        if running:
            state = "paused" if self.curves.paused else "preparing" if self.curves.is_preparing else "running"
        if state == "ended":
            self.pending.clear()
        if state != self.state:
            self.state = state
            self._stale = True
            self.refresh_bindings()

    def _show_samples(self) -> None:
        assert self.curves is not None
        samples = list(self.curves.samples)
        self.query_one("#latest-sample", SampleView).show(samples[-1] if samples else None)
        self.query_one("#earlier-sample", SampleView).show(samples[0] if len(samples) > 1 else None)

    # --- drawing

    def _draw(self) -> None:
        assert self.curves is not None
        self.query_one(Numbers).show(self.curves, self.state, list(self.pending.values()))
        if len(self.curves.core) and not self.has_class("-core"):
            self.add_class("-core")
        for chart in self.query(Chart):
            if chart.display:
                self._fill(chart, self.curves)

    def _fill(self, chart: Chart, curves: RunCurves) -> None:
        shown = contents(chart.id or "", curves, self.axis, float(str(self.knob_value("train.clip"))))
        chart.set_data(shown.series, shown.marks, shown.levels, x_unit=self.axis)

    def knob_value(self, path: str) -> object:
        """The value of a live knob as it is in effect: the last one set, else the run's own."""
        assert self.curves is not None
        return self.curves.knobs.get(path, get_value(self.config, path))

    # --- charts

    def action_next_chart(self) -> None:
        """Show the next chart where there is room for one; otherwise go to it."""
        charts = [chart for chart in self.query(Chart) if chart.id != CORE or self.has_class("-core")]
        place = next(index for index, chart in enumerate(charts) if chart.has_class("chosen"))
        chosen = charts[(place + 1) % len(charts)]
        charts[place].remove_class("chosen")
        chosen.add_class("chosen")
        chosen.focus()
        self.call_after_refresh(self._draw_if_open)

    def action_next_axis(self) -> None:
        """Draw the charts over tokens, over training time, or over steps."""
        units = list(AXES)
        self.axis = units[(units.index(self.axis) + 1) % len(units)]
        self._draw_if_open()

    def action_restore(self) -> None:
        self.remove_class("one-chart")

    async def action_on_charts(self, action: str) -> None:
        """A chart's key, pressed while the focus is elsewhere: for the chosen chart."""
        await self.query_one("Chart.chosen", Chart).run_action(action)

    @on(Chart.MaximiseRequested)
    def _maximise(self, event: Chart.MaximiseRequested) -> None:
        for chart in self.query(Chart):
            chart.set_class(chart is event.chart, "chosen")
        self.toggle_class("one-chart")
        self.call_after_refresh(self._draw_if_open)

    @on(Chart.CursorMoved)
    def _cursor_moved(self, event: Chart.CursorMoved) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.cursor = event.x

    @on(Chart.ViewChanged)
    def _view_changed(self, event: Chart.ViewChanged) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.view = event.view

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_if_open)

    def _draw_if_open(self) -> None:
        """Charts that come into view were not kept up to date while they were hidden."""
        if self.curves is not None and not self._reading:
            self._draw()

    # --- steering

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that make sense for the run as it is."""
        allowed: dict[str, tuple[RunState, ...]] = {
            "pause": ("running",),
            "go_on": ("paused",),
            "command": ("running", "paused"),
            "tune": ("running", "paused"),
            "stop": ("preparing", "running", "paused"),
            "detach": ("running", "paused"),
            "resume": ("ended",),
            "chat": ("running", "paused", "ended"),
        }
        return self.state in allowed.get(action, (self.state,))

    def action_command(self, command: str) -> None:
        """Ask the trainer for something; it is shown as asked until the answer comes."""
        self._send(command, command)

    def action_pause(self) -> None:
        self._send("pause", "pause")

    def action_go_on(self) -> None:
        self._send("resume", "go on")

    def _send(self, command: str, label: str, **arguments: object) -> None:
        assert self.curves is not None
        try:
            identity = self.workbench.training.send(self.curves.run.name, command, **arguments)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
            return
        self.pending[identity] = label
        self._draw()

    def action_stop(self) -> None:
        """Save and stop; asks, since a key is quickly pressed."""
        answers = [Answer("stop", "Save and stop; it can be resumed later"), Answer("", "Let it train on")]
        assert self.curves is not None
        self.app.push_screen(Ask(f"Stop {self.curves.run.name}?", answers), self._stop)

    def _stop(self, answer: str | None) -> None:
        if answer:
            self._send("stop", "stop")

    def action_resume(self) -> None:
        """Train on from the newest checkpoint; a run that has reached its length is asked for a longer one."""
        assert self.curves is not None
        finished = self.curves.finished
        if finished is None or finished.status != "finished":
            self._begin(())
            return
        done = finished.step
        question = f"{self.curves.run.name} has reached step {done:,}, its end. Train on until which step?"

        def problem_of(text: str) -> str:
            return "" if text.isdecimal() and int(text) > done else f"must be a whole number above {done}"

        def extend(text: str | None) -> None:
            if text:
                self._begin((("train.steps", text),))

        self.app.push_screen(AskText(question, value=str(2 * done), problem_of=problem_of), extend)

    def _begin(self, overrides: Overrides) -> None:
        assert self.curves is not None
        try:
            if not self.workbench.training.begin(self.curves.run, overrides):
                self.notify("another run trains here; this one trains in a process of its own", markup=False)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
        self._checked_at = 0.0

    def action_detach(self) -> None:
        """Let the training go on in a process of its own."""
        assert self.curves is not None
        if self.workbench.training.active != self.curves.run.name:
            self.notify("it trains in a process of its own already", markup=False)
            return
        self.pending["detach"] = "detach"
        self.workbench.hand_over()

    def action_chat(self) -> None:
        """Talk to the model in training, or to the run's last checkpoint."""
        assert self.curves is not None
        name = self.curves.run.name
        live = self.workbench.training.live_model(name) is not None
        self.workbench.open_chat(f"{name}@live" if live else f"{name}@last")

    def action_tune(self) -> None:
        """Change what may be changed while training."""
        self.app.push_screen(KnobsDialog(self.knob_value), self._tuned)

    def _tuned(self, change: tuple[str, str] | None) -> None:
        if change is not None:
            key, value = change
            self._send("set", f"{key} = {value}", key=key, value=value)
