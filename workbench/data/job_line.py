"""The line of the Data screen that runs a job and shows its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.message import Message
from textual.widgets import Static

from workbench.data.jobs import DataJob, Work
from workbench.formatting import describe_progress, format_duration
from workbench.text import clean
from workbench.train.panels import bar
from workbench.ui.notices import notify_error

REFRESH_SECONDS = 0.25
RESUMABLE = {"Downloading": "; download it again to resume"}


class JobLine(Static):
    """Runs one job at a time, such as preparing or downloading, in the background. Hidden while none runs."""

    @dataclass
    class Ended(Message):
        """The job has ended; `result` is what it returned, None if it failed or was canceled."""

        title: str
        result: Any
        problem: str

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.job: DataJob | None = None

    def on_mount(self) -> None:
        self.display = False
        self.set_interval(REFRESH_SECONDS, self._show)

    @property
    def is_running(self) -> bool:
        return self.job is not None and self.job.is_running

    def report_running(self) -> bool:
        """Whether a job is running; if so, shows how to cancel it."""
        if self.job is not None and self.job.is_running:
            self.notify(f"{self.job.title} is still running; press x to cancel it.", markup=False)
        return self.is_running

    def start(self, title: str, work: Work) -> None:
        """Start a job and show its progress, unless one is running."""
        if self.report_running():
            return
        self.job = DataJob(title, work, lambda *ended: self.post_message(self.Ended(title, *ended)))
        self.job.start()
        self.screen.refresh_bindings()
        self._show()

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _show(self) -> None:
        self.display = self.job is not None
        if self.job is None or not self.screen.is_current:
            return
        progress, left = self.job.progress, self.job.seconds_left
        text = "Canceling…" if self.job.canceled.is_set() else describe_progress(progress)
        ahead = f", {format_duration(round(left))} left" if left is not None and not progress.rate else ""
        share = progress.done / progress.total if progress.total else 0.0
        self.update(bar(share, clean(f" {text}{ahead}"), self.content_size.width))

    def on_job_line_ended(self, message: Ended) -> None:
        self.job = None
        self._show()
        self.screen.refresh_bindings()
        if message.problem == "canceled":
            rest = RESUMABLE.get(message.title.split()[0], "")
            self.app.notify(clean(f"{message.title}: canceled{rest}"), timeout=15, markup=False)
        elif message.problem:
            notify_error(self.app, message.problem)
        else:
            self.app.notify(clean(f"{message.title}: done"), markup=False)
