"""The line of the Presets screen that runs a preflight and shows its progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from llm.config import RunConfig
from llm.events import Progress
from workbench.formatting import describe_progress, format_count, format_size
from workbench.presets.preflight import Measurement, PreflightJob, save_measurements
from workbench.text import clean
from workbench.ui.notices import notify_error


class PreflightLine(Static):
    """Runs one preflight at a time in a separate process, and saves the measurement. Hidden while none runs."""

    @dataclass
    class Progressed(Message):
        """The progress of the preflight."""

        progress: Progress

    @dataclass
    class Ended(Message):
        """The end of the preflight; `problem` is "" after success."""

        result: Measurement | None
        problem: str

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.job: PreflightJob | None = None
        self.home = Path()

    def on_mount(self) -> None:
        self.display = False

    def on_unmount(self) -> None:
        self.cancel()

    def start(self, config: RunConfig, name: str, home: Path) -> None:
        """Run a few steps of `config`, which is the preset `name`."""
        self.home = home
        self.job = PreflightJob(
            config,
            name,
            home,
            lambda progress: self.post_message(self.Progressed(progress)),
            lambda result, problem: self.post_message(self.Ended(result, problem)),
        )
        self._show("starting")

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def cancel_for(self, run_name: str) -> None:
        """Cancel because a training starts: it would distort the measurement, and the measurement would slow it."""
        if self.job is not None and not self.job.canceled:
            self.cancel()
            text = f"Preflight of {self.job.name} canceled, because {run_name} starts training."
            self.app.notify(clean(text), markup=False)

    def on_preflight_line_progressed(self, message: Progressed) -> None:
        self._show(describe_progress(message.progress))

    def on_preflight_line_ended(self, message: Ended) -> None:
        job, self.job = self.job, None
        self.display = False
        if job is None or job.canceled:  # it may have ended before the cancellation
            return
        if message.result is not None:
            save_measurements(self.home, message.result)
            text = f"Preflight of {job.name}: {describe_measurement(message.result)}"
            self.app.notify(clean(text), timeout=10, markup=False)
        else:
            notify_error(self.app, message.problem)

    def _show(self, text: str) -> None:
        if self.job is not None:
            self.display = True
            self.update(Content(clean(f"Preflight of {self.job.name}: {text} (Esc cancels)")))


def describe_measurement(found: Measurement) -> str:
    """What a preflight measured, in one line."""
    speed = f"{format_count(found.tokens_per_second, digits=3)} tokens/s on {found.device} in {found.precision}"
    training = format_size(found.training_bytes)
    return f"{speed}, at most {format_size(found.peak_bytes)} of memory ({training} of it for training)"
