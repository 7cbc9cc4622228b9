"""Progress on stderr: lines, and in a terminal a bar below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from llm.events import Event, Finished, Sampled, Started, StepLogged
from llm.events import Progress as Preparing
from llm.generators import drain
from workbench.commands.output import say
from workbench.formatting import describe_progress, format_duration
from workbench.text import clean, one_line
from workbench.train.narration import describe

Result = TypeVar("Result")

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_REDRAWS = 0.5  # a redraw holds the interpreter, so training would pay for more of them
SAMPLE_WIDTH = 200


class ProgressReporter(Protocol):
    """Prints events; a context manager that restores the terminal."""

    def __enter__(self) -> ProgressReporter: ...

    def __exit__(self, *exception: object) -> None: ...

    def report(self, event: Event) -> None: ...


def progress_reporter() -> ProgressReporter:
    """The reporter for stderr: with a bar in a terminal."""
    return LiveReporter(Console(stderr=True)) if sys.stderr.isatty() else PlainReporter()


def with_progress(work: Generator[Preparing, None, Result]) -> Result:
    """The result of a generator of progress, which is printed. An interruption closes the generator."""
    with closing(work), progress_reporter() as reporter:
        return drain(work, reporter.report)


def event_line(event: Event) -> str:
    """One line for rare events; empty for steps and progress."""
    if isinstance(event, Sampled):
        return f"step {event.step}: sample “{one_line(event.prompt + event.text)[:SAMPLE_WIDTH]}”"
    if isinstance(event, Finished) and event.status == "failed":
        return ""  # the error is printed by the caller
    line = describe(event)
    return f"step {getattr(event, 'step', 0)}: {line}" if line else ""


def step_line(event: StepLogged, total_steps: int) -> str:
    """The metrics of one step, as nanochat prints them: share done, loss, gradient norm, learning rate and multiplier,
    time per step, throughput, MFU, and total time and FLOPs."""
    share = f" ({event.step / total_steps:.2%})" if total_steps else ""
    mfu = f" | mfu {event.mfu:.1%}" if event.mfu is not None else ""
    return (
        f"step {event.step}/{total_steps or '?'}{share} | loss {event.loss:.4f} | grad norm {event.grad_norm:.3f} | "
        f"lr {event.lr:.2e} ×{event.lr_multiplier:.2f} | {event.step_ms:.1f} ms/step | "
        f"{event.tokens_per_second:,.0f} tok/s{mfu} | "
        f"total {format_duration(event.elapsed)}, {event.total_flops:.3g} FLOPs"
    )


class StepLines:
    """Lines for steps: one every few seconds, and one for the last step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._total = 0
        self._next = 0.0

    def line(self, event: Event) -> str:
        """The line for `event`; empty where it is no step, or too soon after the last line."""
        if isinstance(event, Started):
            self._total = event.total_steps
        if not isinstance(event, StepLogged) or (self._clock() < self._next and event.step != self._total):
            return ""
        self._next = self._clock() + SECONDS_BETWEEN_LINES
        return step_line(event, self._total)


class PlainReporter:
    """Lines for a file or a pipe: rare events, and a step every few seconds."""

    def __init__(self, write: Callable[[str], object] = say, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._steps = StepLines(clock)
        self._stage = ""

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def report(self, event: Event) -> None:
        line = self._line(event)
        if line:
            self._write(clean(line))

    def _line(self, event: Event) -> str:
        if isinstance(event, Preparing):
            is_new, self._stage = event.stage != self._stage, event.stage
            return f"{event.stage} …" if is_new else ""
        return self._steps.line(event) or event_line(event)


class LiveReporter:
    """A progress bar at the bottom of the terminal, with the time left, and the lines of `PlainReporter` above it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
        )
        self._console = console
        # No refresh thread, which would slow training: events redraw the bar.
        self._progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._clock = clock
        self._steps = StepLines(clock)
        self._next = 0.0
        self._task: TaskID | None = None
        self._stage = ""
        self._total_steps = 0

    def __enter__(self) -> LiveReporter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def report(self, event: Event) -> None:
        line = self._steps.line(event) or event_line(event)
        if line:
            self._console.print(Text(clean(line)))
        if isinstance(event, Preparing):
            self._bar(event.stage, event.total)
            self._advance(event.done, describe_progress(event).removeprefix(event.stage).strip())
        elif isinstance(event, Started):
            self._total_steps = event.total_steps
            self._bar("training", event.total_steps, event.step)
        elif isinstance(event, StepLogged):
            self._bar("training", self._total_steps, event.step)  # an evaluation has shown another bar
            share = f"{100 * event.step / self._total_steps:.0f}% · " if self._total_steps else ""
            numbers = f"step {event.step} · loss {event.loss:.4f} · {event.tokens_per_second:,.0f} tok/s"
            self._advance(event.step, share + numbers)

    def _bar(self, stage: str, total: float, done: float = 0) -> None:
        if stage == self._stage:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._stage, self._next = stage, 0.0
        self._task = self._progress.add_task(clean(stage), total=total or None, completed=int(done), numbers="")

    def _advance(self, done: float, numbers: str) -> None:
        if self._task is None:
            return
        self._progress.update(self._task, completed=done, numbers=clean(numbers))
        if self._clock() >= self._next:
            self._next = self._clock() + SECONDS_BETWEEN_REDRAWS
            self._progress.refresh()
