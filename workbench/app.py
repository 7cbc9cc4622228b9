"""The Textual app: five screens around one training service. `workbench.ui.host.Host` is what the screens see of it."""

from __future__ import annotations

import gc
import sys
import termios
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.notifications import SeverityLevel
from textual.reactive import var
from textual.screen import Screen
from textual.theme import ThemeProvider

from llm.environment import return_free_memory
from llm.errors import UserError
from llm.events import Event, Finished, RolledBack, Warned
from llm.run import Run
from workbench.base_app import BaseApp
from workbench.screens import SCREENS, WINDOWS
from workbench.serve.service import GRACE_SECONDS, ServeService
from workbench.shutdown import Shutdown
from workbench.signals import SignalListener
from workbench.terminal import log_for, reserve_terminal, restore_terminal, why_unusable
from workbench.text import clean
from workbench.train.queue import QueueRunner, RunQueue
from workbench.train.service import TrainingService
from workbench.ui.dialogs import Help
from workbench.ui.faults import errors_contained
from workbench.ui.garbage import freeze_loaded_objects
from workbench.ui.messages import TorchReady, TrainingEnded

if TYPE_CHECKING:
    from textual.command import Provider

    from workbench.charts.curves import RunCurves
    from workbench.chat.screen import ChatScreen
    from workbench.data.corpora import Entry
    from workbench.presets.screen import PresetsScreen
    from workbench.train.screen import TrainScreen
    from workbench.ui.host import Host

    def as_host(app: WorkbenchApp) -> Host:
        """The type checker compares the app with the protocol here."""
        return app


SWITCH_SECONDS = 0.0005
"""The interpreter's switch interval. Measured: a tenth of the default gives the training thread back a third of what
drawing costs it."""
WATCHED_BYTES = 1 << 16
"""As much is read of the end of an existing log for the status line."""
SECONDS_BETWEEN_TRIMS = 60.0
PRELOAD_AFTER_SECONDS = 0.3  # by then the first screen is drawn, and its keys respond


def command_provider() -> type[Provider]:
    from workbench.ui.palette import Everything

    return Everything


class WorkbenchApp(BaseApp):
    """Presets, Train, Runs, Chat and Data."""

    TITLE = "llm-workbench"
    CSS_PATH = "app.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {screen.id: screen.create for screen in SCREENS}
    DEFAULT_MODE = "presets"
    COMMANDS = {command_provider}  # noqa: RUF012 - as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(screen.key, f"show({screen.id!r})", screen.name, id=f"app.{screen.id}", show=False)
            for screen in SCREENS
        ),
        Binding("question_mark,f1", "help", "Help", id="app.help"),
        Binding("ctrl+p", "command_palette", "Commands", id="app.palette", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True),
        Binding("f9", "save_picture", "Screenshot", id="app.screenshot", show=False),
    ]

    screens, windows = SCREENS, WINDOWS
    training_line: var[str] = var("no training")  # a `reactive` of the app would repaint the whole screen
    """The state of the training of this program in one line; shown on top of every screen."""

    def __init__(
        self,
        home: Path,
        open: str | None = None,
        *,
        watch: str | None = None,
        training: TrainingService | None = None,
        preload: bool = False,
    ) -> None:
        """`open` names a checkpoint to talk to at once, `watch` a run whose curves to show; `preload` loads torch once
        the first screen is painted."""
        super().__init__(home)
        self.training = training or TrainingService(home)
        self.training.on_end = lambda name, problem: self.post_message(TrainingEnded(name, problem))
        self.queue = RunQueue(home)
        self.serving = ServeService(home, self.training)
        self._runner = QueueRunner(self.queue, self.training.begin, self.training.is_busy)
        self._quitting = Shutdown(self, self.training, self.queue)
        self._open_first = open
        self._watch_first = watch
        self._preload = preload
        self.signals: SignalListener | None = None
        """Set where the app runs on a terminal."""
        self._watched: RunCurves | None = None

    def on_mount(self) -> None:
        if self.signals is not None:
            self._quitting.obey(self.signals)
        self.set_interval(1.0, self._watch_training)
        self.set_interval(1.0, self.repaint_windows_between)
        self.set_interval(SECONDS_BETWEEN_TRIMS, return_free_memory)
        self.apply_settings()
        if self._preload:
            self.set_timer(PRELOAD_AFTER_SECONDS, self._load_torch)
        if self._open_first is not None:
            self.open_chat(self._open_first)
        elif self._watch_first is not None:
            self.open_train(self._watch_first)
        if waiting := self.queue.names():
            runs = "1 run is" if len(waiting) == 1 else f"{len(waiting)} runs are"
            self.notify(f"{runs} in the queue; press w on the Runs screen to see and start them.", markup=False)

    def on_unmount(self) -> None:
        self.serving.stop()

    # --- screens

    async def action_show(self, mode: str) -> None:
        """Switch to a main screen."""
        if self.current_mode != mode and len(self.screen_stack) == 1:
            await self.switch_mode(mode)

    def open_train(self, run_name: str) -> None:
        """Show a run's curves."""
        self.call_later(self._open, "train", lambda screen: cast("TrainScreen", screen).open_run(run_name))

    def open_chat(self, reference: str) -> None:
        """Chat with a checkpoint, or with the model in training."""
        self.call_later(self._open, "chat", lambda screen: cast("ChatScreen", screen).open_reference(reference))

    def open_presets(self, corpus: Entry) -> None:
        """Use a corpus for the selected preset."""
        self.call_later(self._open, "presets", lambda screen: cast("PresetsScreen", screen).use_corpus(corpus))

    async def _open(self, mode: str, then: Callable[[Screen[Any]], object]) -> None:
        """Switch to a main screen, then call `then` with it; nothing happens where a window is open."""
        await self.action_show(mode)
        if self.current_mode == mode:
            then(self.screen_stack[0])

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The commands of the whole workbench in the command palette."""
        yield SystemCommand("Theme", "Change the theme", self.action_change_theme)
        yield SystemCommand("Settings", "Theme, redraws, smoothing, keys", self.action_settings)
        yield SystemCommand("Screenshot", "Save this screen as SVG", self.action_save_picture)
        yield SystemCommand("Help", "This screen and its keys", self.action_help)
        yield SystemCommand("Quit", "Quit the workbench", lambda: self.call_later(self.action_quit))

    def action_command_palette(self) -> None:
        """Open the command palette."""
        from workbench.ui.palette import Palette

        if not isinstance(self.screen, Palette):
            self.push_screen(Palette())

    def search_themes(self) -> None:
        """Open the palette with the themes."""
        from workbench.ui.palette import Palette

        self.push_screen(Palette(providers=[ThemeProvider], placeholder="Search for themes…"))

    def action_help(self) -> None:
        """Open the help."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))

    # --- the training of this program

    def _watch_training(self) -> None:
        """Once a second: update the status line, and show events of a run that is not on the screen."""
        if not self.screen_stack:
            return  # the screens are gone: the app is closing
        self._serve_queue()
        name = self.training.active
        if name is None and self._watched is None:
            return
        from workbench.charts.curves import RunCurves  # brings numpy, for which the first screen does not wait

        if name is not None and (self._watched is None or self._watched.run.name != name):
            self._watched = RunCurves(Run(self.home / "runs" / name), last_bytes=WATCHED_BYTES)
            self._watched.poll()  # past events are not shown
            self.show_training(self._watched)
        assert self._watched is not None
        events = self._watched.poll()
        follows = getattr(self.screen_stack[0], "subject", "") == self._watched.run.name
        if not follows:  # else the Train screen does
            self.show_training(self._watched)
        if not follows or len(self.screen_stack) > 1:  # else they are in its log, in view
            for event in events:
                self._show_event(event)

    def show_training(self, curves: RunCurves) -> None:
        """Write the status line from these curves, if they are those of the training of this program. A screen that
        shows them calls it whenever it draws, so that both always tell the same numbers."""
        if self._watched is not None and curves.run.name == self._watched.run.name:
            from workbench.train.narration import status_line

            self.training_line = clean(status_line(curves, here=self.training.active == curves.run.name))

    # --- the queue

    def _serve_queue(self) -> None:
        """Start the next run when the one before has ended, here or in another process."""
        if self.training.active is not None:
            self._runner.follow(self.training.active)
        elif not (self._quitting.is_quitting or self._quitting.is_handing_over) and self._runner.is_due():
            self._begin_when_free()

    def enqueue(self, run: Run) -> None:
        """Add a run to the queue; it starts at once if no run of this home trains. Raises `UserError` for a run that
        cannot be trained."""
        self.queue.add(run)
        if self.training.active is None and not self._runner.waiting_for:
            self._begin_when_free()
        names = self.queue.names()
        if run.name in names:
            other = self.waits_for_other
            after = f", after {other}, which trains in another process" if other else ""
            words = f"{run.name} is number {names.index(run.name) + 1} in the queue{after}"
            self.notify(clean(words), markup=False)

    def _begin_when_free(self) -> None:
        """Start the next run, or wait for the end of one that trains in another process."""
        if other := self.training.elsewhere():
            self._runner.follow(other)
        else:
            self.begin_next()

    @property
    def waits_for_other(self) -> str:
        """The run in another process whose end the queue waits for; "" where it waits for none."""
        name = self._runner.waiting_for
        return name if name != self.training.active and self._runner.is_waiting else ""

    def begin_next(self) -> None:
        """Start the next run of the queue."""
        try:
            run = self._runner.start_next()
        except (UserError, OSError) as error:
            self.show_error(str(error))
            return
        if run is not None:
            self.notify(f"{run.name} started from the queue", markup=False)

    def _show_event(self, event: Event) -> None:
        if isinstance(event, Warned | RolledBack | Finished):
            calm = isinstance(event, Finished) and event.status != "failed"
            from workbench.train.narration import describe

            severity: SeverityLevel = "information" if calm else "warning"
            assert self._watched is not None
            self.notify(clean(describe(event)), title=self._watched.run.name, severity=severity, markup=False)

    def on_training_ended(self, message: TrainingEnded) -> None:
        if message.problem and not self._quitting.is_quitting:
            self.show_error(message.problem, title=message.run_name)
        if not self._quitting.is_quitting:
            self._begin_stage(message.run_name)
        self._watch_training()

    def _begin_stage(self, ended: str) -> None:
        """Start the run that waited for the end of its base run."""
        try:
            run = self.training.stages.next_run(ended)
            if run is None:
                return
            self.training.begin(run)
        except (UserError, OSError) as error:
            self.show_error(str(error))
            return
        self.notify(clean(f"{ended} is complete; {run.name} starts from it and learns to answer"), markup=False)
        if self.current_mode == "train":
            self.open_train(run.name)

    def _load_torch(self) -> None:
        threading.Thread(target=self._import_training, name="load torch", daemon=True).start()

    def _import_training(self) -> None:
        """Load PyTorch while the first screen is read."""
        problem = ""
        gc.disable()  # modules stay loaded, and collecting would block the keys
        try:
            import llm.training.run  # noqa: F401
        except ImportError as error:
            problem = f"PyTorch could not be loaded ({error}); run llm-workbench doctor."
        finally:
            gc.enable()
        freeze_loaded_objects()
        self.post_message(TorchReady(problem))

    def on_torch_ready(self, message: TorchReady) -> None:
        if message.problem:
            self.show_error(message.problem)

    def hand_over(self) -> None:
        """Save the training of this program and continue it in a background process."""
        self._quitting.hand_over()

    async def action_quit(self) -> None:
        """Quit; asks first if a run trains in this program."""
        await self._quitting.ask()


def run_app(home: Path, open: str | None = None, watch: str | None = None) -> int:
    """Open the workbench on `home`; `open` names a checkpoint to talk to at once, `watch` a run whose curves to show.
    Ends the program, or returns the exit status where no workbench can be opened."""
    if problem := why_unusable():
        print(problem, file=sys.stderr)
        return 2
    log = log_for(home)
    sys.setswitchinterval(SWITCH_SECONDS)
    app = WorkbenchApp(home, open, watch=watch, preload=True)
    app.survives_errors = True
    signals = app.signals = SignalListener(app.training, partial(restore_terminal, termios.tcgetattr(0)))
    with signals.listening():
        with reserve_terminal(log), errors_contained():
            try:
                app.run()
            finally:
                signals.has_terminal = False  # it is as it was before
                app.serving.stop(GRACE_SECONDS)
                saved = app.training.shutdown()
        status = app.return_code or 0
        if not saved:
            print(clean(app.training.unsaved or "the last steps of the run were not saved."), file=sys.stderr)
            status = max(status if status < 128 else 0, 1)
        if app.return_code == 1:
            print(f"llm-workbench stopped because of an internal error; see {log}.", file=sys.stderr)
        sys.stdout.flush()
        return signals.end(status)
