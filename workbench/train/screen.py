"""The Train screen: one run, and the keys that control it."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from llm.errors import UserError
from llm.run import Run
from workbench.charts.curves import RunCurves
from workbench.text import clean
from workbench.train.chart_grid import CHART_KEYS
from workbench.train.extend_dialog import ask_extension
from workbench.train.fine_tuning import fine_tune
from workbench.train.run_view import RunState, RunView
from workbench.train.service import Overrides
from workbench.train.settings_dialog import LiveSettingsDialog
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.notices import notify_error
from workbench.ui.screen import WorkbenchScreen

ALLOWED_STATES: dict[str, tuple[RunState, ...]] = {
    "pause": ("running",),
    "unpause": ("paused",),
    "command": ("running", "paused"),
    "tune": ("running", "paused"),
    "stop": ("preparing", "running", "paused"),
    "detach": ("running", "paused"),
    "resume": ("ended",),
    "fine_tune": ("ended",),
    "chat": ("running", "paused", "ended"),
}
"""The states of a run in which an action works; all others always do."""


class TrainScreen(WorkbenchScreen):
    """The keys of the screen; `RunView` shows the run."""

    GUIDE = (
        "The curves, samples and log of one run. Tab moves between the panes. Chart keys act on the focused chart, "
        "or the last one used: + and - zoom, arrows pan, comma and full stop move a cursor that shows values, y "
        "toggles a log axis, [ and ] change the smoothing, m maximizes the chart, u changes the x axis (tokens, time), "
        "o compares with other runs, v selects the next chart. Marks: ▪ saved, ● evaluated, ★ best, ◆ setting changed, "
        "✗ step skipped, ↶ rolled back. x saves and stops; r resumes a stopped or finished run, F fine-tunes its "
        "model. d detaches: training continues in a background process after the workbench closes. b shows the "
        "active run."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "samples": "The latest sample and the previous one. Where only one fits, Enter shows the other."
    }
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - it has no side panel
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "next_axis", "Steps, tokens, time", id="train.axis", show=False),
        Binding("o", "compare", "Compare with other runs", id="train.beside", show=False),
        Binding("v", "next_chart", "Next chart", id="train.next-chart", show=False),
        Binding("escape", "restore", "All charts", id="train.restore", show=False),
        *CHART_KEYS,
        Binding("b", "training", "Active run", id="train.active"),
        Binding("p", "pause", "Pause", id="train.pause"),
        Binding("p", "unpause", "Continue", id="train.pause"),
        Binding("s", "command('save')", "Save", id="train.save"),
        Binding("e", "command('evaluate')", "Evaluate", id="train.evaluate"),
        Binding("a", "command('sample')", "Sample", id="train.sample"),
        Binding("t", "tune", "Tune", id="train.tune"),
        Binding("x", "stop", "Stop", id="train.stop"),
        Binding("r", "resume", "Resume", id="train.resume"),
        Binding("F", "fine_tune", "Fine-tune", id="train.fine-tune"),
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
        """The curves of the shown run; None without a run."""
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
        """Only the actions that work in the state of the run."""
        if action == "training":
            return bool(self.view.other_training)
        return self.state in ALLOWED_STATES.get(action, (self.state,))

    # --- the charts

    def action_next_axis(self) -> None:
        self.view.show_next_axis()

    def action_compare(self) -> None:
        self.view.choose_others()

    def action_next_chart(self) -> None:
        self.view.charts.choose_next()

    def action_restore(self) -> None:
        self.remove_class("one-chart")

    async def action_on_charts(self, action: str) -> None:
        """Pass a chart key on to the chosen chart."""
        await self.view.charts.chosen.run_action(action)

    # --- commands to the trainer

    def action_command(self, command: str) -> None:
        """Send a command to the trainer; it is shown as pending until the answer comes."""
        self._send(self.subject, command, command)

    def action_pause(self) -> None:
        self._send(self.subject, "pause", "pause")

    def action_unpause(self) -> None:
        self._send(self.subject, "resume", "continue")

    def _send(self, name: str, command: str, label: str, **arguments: object) -> None:
        """Send a command to the trainer of a run, which may have ended while a dialog was open."""
        if not self.workbench.training.is_busy(name):
            text = f"{clean(name)} has ended: {clean(label)} is not possible; resume the run first."
            self.notify(text, severity="warning", markup=False)
            self.view.check_soon()
            return
        try:
            identity = self.workbench.training.send(name, command, **arguments)
        except (UserError, OSError) as error:
            notify_error(self.app, error)
            return
        if name == self.subject:
            self.view.add_pending(identity, label)

    def action_stop(self) -> None:
        """Save and stop, after a confirmation."""
        assert self.curves is not None
        name = self.subject
        answers = [Answer("stop", "Save and stop (resume later)"), Answer("", "Cancel")]
        if self.curves.refused_stop:
            answers.append(Answer("discard", "Stop without saving (loses the steps since the last checkpoint)"))

        def stop(answer: str | None) -> None:
            if answer == "stop":
                self._send(name, "stop", "stop", must_save=True)
            elif answer == "discard":
                self._send(name, "stop", "stop", save=False)

        self.app.push_screen(Ask(f"Stop {clean(name)}?", answers), stop)

    def action_tune(self) -> None:
        """Change a setting of the run in training."""
        name = self.subject

        def tune(change: tuple[str, str] | None) -> None:
            if change is not None:
                key, value = change
                self._send(name, "set", f"{key} = {value}", key=key, value=value)

        self.app.push_screen(LiveSettingsDialog(self.view.value_of), tune)

    # --- starting, detaching, chatting

    def action_training(self) -> None:
        """Show the run in training in this program."""
        self.view.open_run(self.view.other_training)

    @work
    async def action_resume(self) -> None:
        """Resume from the newest checkpoint; for a finished run, ask for more steps."""
        assert self.curves is not None
        run, finished = self.curves.run, self.curves.finished
        if finished is None or finished.status != "finished":
            self._start(run, ())
            return
        overrides = await ask_extension(self.app, run, finished.step, 2 * finished.step)
        if overrides is not None:
            self._start(run, overrides)

    @work
    async def action_fine_tune(self) -> None:
        """Fine-tune the model of the run, in a new run."""
        run = await fine_tune(self, f"{self.subject}@last")
        if run is not None:
            self._start(run, ())
            self.view.open_run(run.name)

    def _start(self, run: Run, overrides: Overrides) -> None:
        try:
            if not self.workbench.training.begin(run, overrides):
                self.notify("Started in a background process, since another run is training here", markup=False)
        except (UserError, OSError) as error:
            notify_error(self.app, error)
        self.view.check_soon()

    def action_detach(self) -> None:
        """Continue the training in a background process."""
        if self.workbench.training.active != self.subject:
            self.notify("This run already trains in a background process", markup=False)
            return
        self.view.add_pending("detach", "detach")
        self.workbench.hand_over()

    def action_chat(self) -> None:
        """Chat with the model in training, or with the last checkpoint."""
        live = self.workbench.training.live_model(self.subject) is not None
        self.workbench.open_chat(f"{self.subject}@live" if live else f"{self.subject}@last")
