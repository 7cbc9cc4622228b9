"""Watching a run learn, and steering it."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from llm.errors import UserError
from llm.run import Run
from workbench.charts.curves import RunCurves
from workbench.charts.screen_chart import CHART_KEYS
from workbench.text import clean
from workbench.train.extend_dialog import ask_for_longer
from workbench.train.run_view import RunState, RunView
from workbench.train.service import Overrides
from workbench.train.settings_dialog import LiveSettingsDialog
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.screen import WorkbenchScreen

WHEN: dict[str, tuple[RunState, ...]] = {
    "pause": ("running",),
    "go_on": ("paused",),
    "command": ("running", "paused"),
    "tune": ("running", "paused"),
    "stop": ("preparing", "running", "paused"),
    "detach": ("running", "paused"),
    "resume": ("ended",),
    "chat": ("running", "paused", "ended"),
}
"""The states of a run in which a key makes sense; what is not listed always does."""


class TrainScreen(WorkbenchScreen):
    """One run: its curves, its samples, its log, and the keys that steer it."""

    GUIDE = (
        "The curves of one run as it trains. Tab moves between the charts, the samples and the log. The chart keys act "
        "on the chart with the focus, else on the one used last: + and - zoom, arrows pan, comma and full stop move a "
        "cursor that reads values, y makes the axis logarithmic, [ and ] change the smoothing, m gives it the whole "
        "screen, u changes the axis to tokens or time, o draws other runs beside it, v goes to the next chart. On the "
        "curves: ▪ saved, ● evaluated, ★ best, ◆ knob changed, ✗ step skipped, ↶ gone back. "
        "Stopping saves first; a stopped or finished run can be resumed with r. d lets it train on in a process of its "
        "own, which outlives the workbench. Where another run trains here, b shows that one."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "samples": (
            "What the model wrote to its prompt last, and the time before. Where there is room for one of the two, "
            "Enter shows the other."
        )
    }
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - all is in sight already; more room enlarges it
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "next_axis", "Steps, tokens, time", id="train.axis", show=False),
        Binding("o", "lay_beside", "Compare with other runs", id="train.beside", show=False),
        Binding("v", "next_chart", "Next chart", id="train.next-chart", show=False),
        Binding("escape", "restore", "All charts", id="train.restore", show=False),
        *CHART_KEYS,
        Binding("b", "training", "To the training", id="train.active"),
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
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = RunView()

    def body(self) -> ComposeResult:
        yield self.view

    @property
    def curves(self) -> RunCurves | None:
        """What is logged of the shown run; None where there is none."""
        return self.view.curves

    @property
    def state(self) -> RunState:
        return self.view.state

    @property
    def subject(self) -> str:
        """The name of the shown run, "" for none."""
        return self.view.subject

    def open_run(self, name: str) -> None:
        """Show a run."""
        self.view.open_run(name)

    def on_screen_suspend(self) -> None:
        self.view.was_left = not self.is_current  # a window over the screen does not count

    def on_screen_resume(self) -> None:
        self.view.resume()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that make sense for the run as it is."""
        if action == "training":
            return bool(self.view.other_training)
        return self.state in WHEN.get(action, (self.state,))

    # --- the charts

    def action_next_axis(self) -> None:
        self.view.show_next_axis()

    def action_lay_beside(self) -> None:
        self.view.choose_others()

    def action_next_chart(self) -> None:
        self.view.charts.choose_next()

    def action_restore(self) -> None:
        self.remove_class("one-chart")

    async def action_on_charts(self, action: str) -> None:
        """Pass a chart key on to the chosen chart."""
        await self.view.charts.chosen.run_action(action)

    # --- asking the trainer

    def action_command(self, command: str) -> None:
        """Ask the trainer for something; it is shown as asked until the answer comes."""
        self._send(self.subject, command, command)

    def action_pause(self) -> None:
        self._send(self.subject, "pause", "pause")

    def action_go_on(self) -> None:
        self._send(self.subject, "resume", "go on")

    def _send(self, name: str, command: str, label: str, **arguments: object) -> None:
        """Ask the trainer of the run called `name`, which may have ended, or be shown no more, since a window asked."""
        if not self.workbench.training.is_busy(name):
            text = f"{clean(name)} has ended, so {clean(label)} came too late; resume it to change it."
            self.notify(text, severity="warning", markup=False)
            self.view.check_soon()
            return
        try:
            identity = self.workbench.training.send(name, command, **arguments)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
            return
        if name == self.subject:
            self.view.add_pending(identity, label)

    def action_stop(self) -> None:
        """Save and stop; asks, since a key is quickly pressed."""
        assert self.curves is not None
        name = self.subject
        answers = [Answer("stop", "Save and stop; it can be resumed later"), Answer("", "Let it train on")]
        if self.curves.refused_stop:
            answers.append(Answer("discard", "Stop without saving; the steps since its last checkpoint are lost"))

        def stop(answer: str | None) -> None:
            if answer == "stop":
                self._send(name, "stop", "stop", must_save=True)
            elif answer == "discard":
                self._send(name, "stop", "stop", save=False)

        self.app.push_screen(Ask(f"Stop {clean(name)}?", answers), stop)

    def action_tune(self) -> None:
        """Change what may be changed while training."""
        name = self.subject

        def tune(change: tuple[str, str] | None) -> None:
            if change is not None:
                key, value = change
                self._send(name, "set", f"{key} = {value}", key=key, value=value)

        self.app.push_screen(LiveSettingsDialog(self.view.knob_value), tune)

    # --- beginning, handing over, talking

    def action_training(self) -> None:
        """Show the run that trains here in place of this one."""
        self.view.open_run(self.view.other_training)

    @work
    async def action_resume(self) -> None:
        """Train on from the newest checkpoint; a run that has reached its length is asked for a longer one."""
        assert self.curves is not None
        run, finished = self.curves.run, self.curves.finished
        if finished is None or finished.status != "finished":
            self._begin(run, ())
            return
        overrides = await ask_for_longer(self.app, run, finished.step, 2 * finished.step)
        if overrides is not None:
            self._begin(run, overrides)

    def _begin(self, run: Run, overrides: Overrides) -> None:
        try:
            if not self.workbench.training.begin(run, overrides):
                self.notify("another run trains here; this one trains in a process of its own", markup=False)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
        self.view.check_soon()

    def action_detach(self) -> None:
        """Let the training go on in a process of its own."""
        if self.workbench.training.active != self.subject:
            self.notify("it trains in a process of its own already", markup=False)
            return
        self.view.add_pending("detach", "detach")
        self.workbench.hand_over()

    def action_chat(self) -> None:
        """Talk to the model in training, or to the run's last checkpoint."""
        live = self.workbench.training.live_model(self.subject) is not None
        self.workbench.open_chat(f"{self.subject}@live" if live else f"{self.subject}@last")
