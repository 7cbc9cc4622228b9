"""A window that shows the progress of work in a thread, and cancels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import ProgressBar, Static

from llm.errors import UserError
from llm.events import Progress
from llm.generators import drain, until_stopped
from workbench.formatting import describe_progress
from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.notices import notify_error

SECONDS_BETWEEN_UPDATES = 0.1


class ProgressDialog(Modal[Any]):
    """Runs a generator of progress; returns its result, or None if it failed or was canceled."""

    NAME = "Progress"
    GUIDE = "The work continues until it is done. Esc cancels it, and nothing is left of it."
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel", id="dialog.cancel")]

    def __init__(self, title: str, start: Callable[[], Generator[Progress, None, Any]]) -> None:
        super().__init__(classes="dialog")
        self.title_text = title
        self.start = start
        self.result: Any = None
        self.error: Exception | None = None
        self._canceled, self._done = threading.Event(), threading.Event()
        self._progress: Progress | None = None
        self._noted = 0.0

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(clean(self.title_text)), classes="dialog-question")
            yield Static("", id="progress-stage", markup=False)
            yield ProgressBar(show_percentage=True, show_eta=True)
            yield Static("Press Esc to cancel.", classes="dialog-hint", markup=False)

    def on_mount(self) -> None:
        self.set_interval(SECONDS_BETWEEN_UPDATES, self._update)
        self._run()

    @work(thread=True)
    def _run(self) -> None:
        from llm.engine.weights import use_one_thread

        use_one_thread()
        try:
            self.result = drain(until_stopped(self.start(), self._canceled.is_set), self._note)
        except (UserError, OSError) as error:
            self.error = error
        finally:
            self._done.set()

    def _note(self, progress: Progress) -> None:
        """Keep the newest progress, a few times a second."""
        if time.monotonic() - self._noted > SECONDS_BETWEEN_UPDATES:
            self._noted, self._progress = time.monotonic(), progress

    def _update(self) -> None:
        """Show the progress; close when the work is done and no window is in front."""
        if (progress := self._progress) is not None:
            self.query_one("#progress-stage", Static).update(clean(describe_progress(progress)))
            self.query_one(ProgressBar).update(total=progress.total or None, progress=progress.done)
        if self._done.is_set() and self.is_active:
            if self.error is not None:
                notify_error(self.app, self.error)
            self.dismiss(self.result)

    def action_cancel(self) -> None:
        """Stop at the next step."""
        self._canceled.set()
        self.query_one(".dialog-hint", Static).update("Canceling…")
