"""The event log of a run as growing arrays, for charts and metrics.

A long log is read by `RunCurves.catch_up`, in a thread. Logged steps and the like, which are nearly all of it, become
rows without becoming events first. `curve_cache` keeps what was read, so that the next opening reads only newer lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.events import (
    AnswersEvaluated,
    CommandRefused,
    CoreEvaluated,
    Evaluated,
    Event,
    Finished,
    KnobSet,
    MetricsLogged,
    Progress,
    RanksMeasured,
    RolledBack,
    Sampled,
    Saved,
    Skipped,
    Started,
    StepLogged,
)
from llm.run import Run
from llm.run.log import events_of, last_event_of, parse_event, paused_after
from workbench.charts.log_rows import Block, read_block

Array = NDArray[np.float64]

STEP_COLUMNS = (
    "step",
    "elapsed",
    "tokens_seen",
    "loss",
    "lr",
    "lr_multiplier",
    "grad_norm",
    "step_ms",
    "tokens_per_second",
    "mfu",
    "memory_bytes",
)
METRIC_NAMES = ("reward", "margin", "accuracy", "kl", "entropy")
TABLES = {
    "steps": STEP_COLUMNS,
    "validation": ("step", "elapsed", "validation_loss", "perplexity", "bits_per_byte", "train_loss"),
    "core": ("step", "elapsed", "core_metric"),
    "metrics": ("step", "elapsed", *METRIC_NAMES),
    "answers": ("step", "elapsed", "exact_answers"),
}
"""The tables of `RunCurves`, with their columns."""
STEP_FIELDS = tuple((name,) for name in STEP_COLUMNS)
METRIC_FIELDS = (("step",), ("elapsed",), *(("metrics", name) for name in METRIC_NAMES))

CHANGE_ROWS = (Started, RolledBack, StepLogged, MetricsLogged, RanksMeasured)
"""Events that change what the rows before or after them mean."""
READ_BYTES = 1 << 20  # read at once while catching up: fits the cache of a core, through which it passes many times
MAX_RESERVED = 1 << 22  # rows of memory allocated before they are read
RECENT_EVENTS = 400  # events other than steps that are kept for the event log
SAMPLES = 2  # texts that are kept: the newest, and the previous one

PACE_SECONDS, PACE_SHARE = 30.0, 0.05
"""The time left is estimated from the last half minute, or from this share of all steps if longer."""
SLOWEST = 4.0  # times the median: a slower step, which compiled or waited, is cut to this


@dataclass(frozen=True)
class Axis:
    """An x axis: the column of the steps that holds it, and its name for people."""

    column: str
    label: str


AXES = {
    "step": Axis("step", "steps"),
    "tokens": Axis("tokens_seen", "tokens seen"),
    "time": Axis("elapsed", "training time"),
}


class Table:
    """Rows of float64 that grow at the end and are cut at a step; the first column is the step and never falls."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.rows = 0
        self._values: Array = np.empty((len(columns), 64))

    def __len__(self) -> int:
        return self.rows

    def append(self, event: StepLogged | Evaluated | CoreEvaluated | AnswersEvaluated) -> None:
        """Add one row from the event's attributes; None becomes NaN. It replaces the rows from its step on."""
        if self.rows and event.step <= self["step"][-1]:
            self.truncate(event.step - 1)
        if self.rows == self._values.shape[1]:
            self.reserve(2 * self.rows)
        values = (getattr(event, name) for name in self.columns)
        self._values[:, self.rows] = [np.nan if value is None else value for value in values]
        self.rows += 1

    def extend(self, rows: Array) -> None:
        """Add rows, shape (rows, columns)."""
        needed = self.rows + len(rows)
        if needed > self._values.shape[1]:
            self.reserve(max(needed, 2 * self._values.shape[1]))
        self._values[:, self.rows : needed] = rows.T
        self.rows = needed

    def reserve(self, rows: int) -> None:
        """Allocate memory for this many rows in all, so that growing to them copies nothing."""
        if rows > self._values.shape[1]:
            grown = np.empty((len(self.columns), rows))
            grown[:, : self.rows] = self._values[:, : self.rows]
            self._values = grown

    def __getitem__(self, column: str) -> Array:
        """One column, as a view: shape (rows,)."""
        return self._values[self.columns.index(column), : self.rows]

    def array(self) -> Array:
        """All of it, as a view of shape (rows, columns)."""
        return self._values[:, : self.rows].T

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`."""
        self.rows = int(np.searchsorted(self["step"], step, side="right"))


@dataclass(frozen=True)
class RunMark:
    """Something that happened at a step: `kind` is save, setting, skip or rollback."""

    step: int
    kind: str
    text: str


class RunCurves:
    """Follows one run's `events.jsonl`.

    `Started` and `RolledBack` discard what was logged after their step, since a killed run logs those steps again.
    """

    def __init__(self, run: Run, *, last_bytes: int | None = None) -> None:
        """`last_bytes`: start that far before the end of the log, where only new events matter."""
        self.run = run
        self.tables = {name: Table(columns) for name, columns in TABLES.items()}
        """`metrics` are those of fine-tuning, of training steps."""
        self.steps, self.validation, self.core, self.metrics, self.answers = self.tables.values()
        self.marks: list[RunMark] = []
        self.samples: deque[Sampled] = deque(maxlen=SAMPLES)
        self.started: Started | None = None
        self.progress: Progress | None = None
        self.last_step: StepLogged | None = None
        self.ranks: RanksMeasured | None = None
        self.finished: Finished | None = None
        self.paused = False
        self.settings: dict[str, Any] = {}
        """Live settings that were changed, by path, with their current values."""
        self.recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        """The last events other than steps and progress, oldest first."""
        self.lines = run.tail().lines
        if last_bytes is not None:
            self.lines.offset = max(0, self.unread_bytes - last_bytes)
            self.started = last_event_of(Path(self.lines.path), Started)  # how long the run is to be

    def poll(self, limit: int = 1 << 21) -> list[Event]:
        """Read what was logged since the last call, at most about `limit` bytes; returns the events, but of
        those that were read as rows only the last step."""
        return self._read_text(self.lines.read(limit))

    @property
    def unread_bytes(self) -> int:
        """Bytes of the log that are not read yet."""
        try:
            return max(0, Path(self.lines.path).stat().st_size - self.lines.offset)
        except OSError:
            return 0

    def catch_up(self, progress: Callable[[float], bool] = lambda share: True) -> None:
        """Read the whole log. `progress` gets the share that is done, and returns whether to continue."""
        start, total = self.lines.offset, self.unread_bytes
        while self.unread_bytes and progress(1 - min(1.0, self.unread_bytes / total)):
            before = self.lines.offset
            self.poll(READ_BYTES)
            if self.lines.offset == before:
                return
            if before == start:
                expected = len(self.steps) * total // (self.lines.offset - before)
                self.steps.reserve(min(expected + expected // 20, MAX_RESERVED))

    def _read_text(self, text: bytes) -> list[Event]:
        """Read complete lines, as rows where possible; returns what `poll` does."""
        block = read_block(text, STEP_FIELDS, METRIC_FIELDS)
        if block is None:
            return self._read_events(parse_lines(text.split(b"\n")))
        events = self._read_events(parse_lines(block.head.split(b"\n")))
        return [*events, *self._read_block(block)]

    def _read_events(self, events: list[Event]) -> list[Event]:
        self.paused = paused_after(events, self.paused)
        for event in events:
            self._apply(event)
            if not isinstance(event, StepLogged | Progress | RanksMeasured | MetricsLogged):
                self.recent.append(event)
        return events

    def _read_block(self, block: Block) -> list[Event]:
        """Add rows and apply the other events. Where events between the rows change what these mean, or where steps do
        not rise, the halves of the text are read instead, until they are so short that lines are read one by one."""
        between, after = parse_lines(block.between), parse_lines(block.after)
        has_breaks = any(isinstance(event, CHANGE_ROWS) and not is_validation(event) for event in between)
        if has_breaks or not (rises(self.steps, block.steps) and rises(self.metrics, block.metrics)):
            half = block.text.find(b"\n", len(block.text) // 2) + 1
            if half == len(block.text):  # a very long line
                return self._read_events(parse_lines(block.text.split(b"\n")))
            return [*self._read_text(block.text[:half]), *self._read_text(block.text[half:])]
        self._read_events(between)
        self.metrics.extend(block.metrics)
        if block.has_ranks:
            self.ranks = next(events_of(block.text, RanksMeasured), self.ranks)
        if len(block.steps):
            self.steps.extend(block.steps)
            self.last_step = next(events_of(block.text, StepLogged), None)
            self.progress = None
        self._read_events(after)
        return [*between, *([self.last_step] if self.last_step is not None else []), *after]

    @property
    def step(self) -> int:
        """The last completed step."""
        if self.last_step is not None:
            return self.last_step.step
        return self.started.step if self.started is not None else 0

    @property
    def total_steps(self) -> int:
        return self.started.total_steps if self.started is not None else 0

    @property
    def is_reinforced(self) -> bool:
        """Whether the run learns by reinforcement, and its reward is of more interest than its loss."""
        return bool(len(self.metrics) and np.isfinite(self.metrics["entropy"][-1]))

    @property
    def is_preparing(self) -> bool:
        """Whether the run is before its first step."""
        waiting = self.progress is not None and self.progress.step == 0
        return self.finished is None and (self.started is None or waiting)

    @property
    def refused_stop(self) -> bool:
        """Whether the last stop request was refused because saving failed, and no save succeeded since."""
        for event in reversed(self.recent):
            if isinstance(event, Saved) and event.kind == "checkpoint":
                return False
            if isinstance(event, CommandRefused) and event.command == "stop":
                return True
        return False

    @property
    def best_validation(self) -> float | None:
        """The lowest finite validation loss so far, nats per token."""
        losses = self.validation["validation_loss"]
        finite = losses[np.isfinite(losses)]
        return float(finite.min()) if finite.size else None

    @property
    def best_evaluation(self) -> tuple[int, float] | None:
        """Step and validation loss of the best evaluation so far."""
        best = self.best_validation
        if best is None:
            return None
        place = int(np.flatnonzero(self.validation["validation_loss"] == best)[0])
        return int(self.validation["step"][place]), best

    def x_of(self, table: Table, axis: str) -> Array:
        """The rows of `table` on an axis of steps, "tokens" or training "time" in seconds: shape (rows,)."""
        column = AXES[axis].column
        return table[column] if column in table.columns else self.x_at(table["step"], axis)

    def x_at(self, steps: Array, axis: str) -> Array:
        """Steps on such an axis, interpolated between the logged steps."""
        if axis == "step" or not len(self.steps):
            return steps
        return np.interp(steps, self.steps["step"], self.steps[AXES[axis].column])

    @property
    def seconds_left(self) -> float | None:
        """Expected training seconds to the end, from the pace of the last logged steps; None while it is unknown."""
        if self.total_steps == 0 or len(self.steps) == 0 or self.finished is not None:
            return None
        step, elapsed = self.steps["step"], self.steps["elapsed"]
        first = min(
            np.searchsorted(elapsed, elapsed[-1] - PACE_SECONDS),
            np.searchsorted(step, step[-1] - PACE_SHARE * self.total_steps),
        )
        pace = self.steps["step_ms"][first:]
        pace = pace[np.isfinite(pace) & (pace > 0)]
        if not pace.size:
            return None
        usual = np.minimum(pace, SLOWEST * np.median(pace)).mean()
        return float(usual) / 1000 * (self.total_steps - self.step)

    def _apply(self, event: Event) -> None:
        match event:
            case Started():
                self._discard_after(event.step)
                self.settings.update(event.changed)
                self.started, self.progress, self.finished = event, None, None
                self.ranks = None
            case Progress():
                self.progress, self.finished = event, None
            case StepLogged():
                self.steps.append(event)
                self.last_step, self.progress = event, None
            case RanksMeasured():
                self.ranks = event
            case Evaluated():
                self.validation.append(event)
                self.progress = None
            case CoreEvaluated():
                self.core.append(event)
                self.progress = None
            case AnswersEvaluated():
                self.answers.append(event)
                self.progress = None
            case MetricsLogged(is_validation=False):
                values = [event.metrics.get(name, np.nan) for name in METRIC_NAMES]
                self.metrics.truncate(event.step - 1)
                self.metrics.extend(np.array([[event.step, event.elapsed, *values]], dtype=np.float64))
            case Sampled():
                self.samples.append(event)
            case Saved(kind="checkpoint"):
                self._mark(event.step, "save", f"saved {event.path}")
            case KnobSet():
                self.settings[event.key] = event.value
                self._mark(event.step, "setting", f"{event.key} {event.previous} → {event.value}")
            case Skipped():
                self._mark(event.step, "skip", event.reason)
            case RolledBack():
                self._discard_after(event.step)
                self._mark(event.step, "rollback", event.reason)
            case Finished():
                self.finished, self.progress = event, None

    def _mark(self, step: int, kind: str, text: str) -> None:
        self.marks.append(RunMark(step, kind, text))

    def _discard_after(self, step: int) -> None:
        for table in self.tables.values():
            table.truncate(step)
        self.marks = [mark for mark in self.marks if mark.step <= step]
        self.samples = deque((sample for sample in self.samples if sample.step <= step), maxlen=SAMPLES)
        if self.last_step is not None and self.last_step.step > step:
            self.last_step = None


def rises(table: Table, rows: Array) -> bool:
    """Whether the steps of new rows, their first column, rise and come after those of the table."""
    if not len(rows):
        return True
    steps = rows[:, 0]
    return bool((not len(table) or steps[0] > table["step"][-1]) and (steps[1:] > steps[:-1]).all())


def parse_lines(lines: Iterable[bytes]) -> list[Event]:
    """The events of those lines that hold one."""
    return [event for line in lines if (event := parse_event(line)) is not None]


def is_validation(event: Event) -> bool:
    """Whether an event holds metrics of an evaluation, which no curve shows."""
    return isinstance(event, MetricsLogged) and event.is_validation
