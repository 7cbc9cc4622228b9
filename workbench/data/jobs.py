"""Background work on data in a thread: preparing a corpus, downloading a dataset."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

from llm.errors import UserError
from llm.events import Progress
from llm.generators import drain, until_stopped
from workbench.terminal import write_log

Work = Callable[[], Generator[Progress, None, Any]]


class DataJob:
    """Runs a generator of `Progress` to its end in a daemon thread.

    `progress` is the latest, `seconds_left` an estimate for its stage (None if unknown). `cancel` closes the generator,
    which cleans up. `on_end(result, problem)` is called in the thread: `problem` is "" after success and "canceled"
    after `cancel`.
    """

    def __init__(self, title: str, work: Work, on_end: Callable[[Any, str], object]) -> None:
        self.title = title
        self.progress = Progress(stage="starting", done=0, total=0)
        self.canceled = threading.Event()
        self._work = work
        self._on_end = on_end
        self._stage_began = (0.0, 0.0)
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Stop at the next progress report."""
        self.canceled.set()

    @property
    def seconds_left(self) -> float | None:
        progress, (began, done) = self.progress, self._stage_began
        seconds = time.monotonic() - began
        rate = progress.rate or ((progress.done - done) / seconds if seconds > 0 else 0.0)
        if not progress.total or rate <= 0 or seconds < 0.5:
            return None
        return max(0.0, (progress.total - progress.done) / rate)

    def _update(self, progress: Progress) -> None:
        if progress.stage != self.progress.stage:
            self._stage_began = (time.monotonic(), progress.done)
        self.progress = progress

    def _run(self) -> None:
        result, problem = None, ""
        try:
            result = self._run_work()
            problem = "canceled" if result is None and self.canceled.is_set() else ""
        except UserError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - the end of the thread: reported to the user, details in the log
            write_log(traceback.format_exc())
            problem = f"{self.title} failed ({type(error).__name__}: {error}); see workbench.log."
        self._on_end(result, problem)

    def _run_work(self) -> Any:
        """The return value of the generator; None if it was canceled."""
        return drain(until_stopped(self._work(), self.canceled.is_set), self._update)
