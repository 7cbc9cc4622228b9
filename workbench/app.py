"""The Textual app: four screens around one training service.

What the screens may use: `app.home`, `app.training`, `await app.open_train(run_name)`, `await app.open_chat(reference)`
(a reference is `RUN`, `RUN@last`, `RUN@best`, `RUN@STEP`, or `RUN@live` for the model in training). `app.open_chat` calls
`ChatScreen.open_reference(reference)`, `app.open_train` calls `TrainScreen.open_run(run_name)`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from workbench.services.training import TrainingService
from workbench.terminal import has_terminal, terminal_kept_for_app
from workbench.themes import DEFAULT, THEMES


def presets_screen() -> Screen[Any]:
    from workbench.screens.presets import PresetsScreen

    return PresetsScreen(id="presets")


def train_screen() -> Screen[Any]:
    from workbench.screens.train import TrainScreen

    return TrainScreen(id="train")


def runs_screen() -> Screen[Any]:
    from workbench.screens.runs import RunsScreen

    return RunsScreen(id="runs")


def chat_screen() -> Screen[Any]:
    from workbench.screens.chat import ChatScreen

    return ChatScreen(id="chat")


class WorkbenchApp(App[int]):
    """Presets, Train, Runs and Chat."""

    TITLE = "llm-workbench"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "presets": presets_screen,
        "train": train_screen,
        "runs": runs_screen,
        "chat": chat_screen,
    }
    DEFAULT_MODE = "presets"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('presets')", "Presets", id="app.presets", show=False),
        Binding("2", "show('train')", "Train", id="app.train", show=False),
        Binding("3", "show('runs')", "Runs", id="app.runs", show=False),
        Binding("4", "show('chat')", "Chat", id="app.chat", show=False),
        Binding("question_mark,f1", "help", "Help", id="app.help", key_display="?"),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True),
    ]

    training_line: reactive[str] = reactive("no training")
    """How the training of this program stands, in one line; shown on top of every screen."""

    def __init__(self, home: Path, open: str | None = None) -> None:
        super().__init__()
        self.home = home
        self.training = TrainingService(home)
        self._open_first = open
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DEFAULT

    async def action_show(self, mode: str) -> None:
        """Bring one of the four screens to the front."""
        if self.current_mode != mode:
            await self.switch_mode(mode)

    async def open_train(self, run_name: str) -> None:
        """Show a run's curves."""
        await self.action_show("train")
        await self._call("open_run", run_name)

    async def open_chat(self, reference: str) -> None:
        """Talk to a checkpoint, or to the model in training."""
        await self.action_show("chat")
        await self._call("open_reference", reference)

    async def _call(self, method: str, argument: str) -> None:
        result = getattr(self.screen, method)(argument)
        if result is not None:
            await result


def run_app(home: Path, open: str | None = None) -> int:
    """Open the workbench on `home`; `open` names a checkpoint to talk to at once. Returns the exit status."""
    if not has_terminal():
        print(
            "llm-workbench needs a terminal for its screens, and this is none; use a subcommand instead "
            "(llm-workbench --help lists them).",
            file=sys.stderr,
        )
        return 2
    home.mkdir(parents=True, exist_ok=True)
    app = WorkbenchApp(home, open)
    with terminal_kept_for_app(home / "workbench.log"):
        app.run()
    return app.return_code or 0
