"""A run's event log as growing arrays: what the charts draw, and what the numbers beside them say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llm.events import (
    Evaluated,
    Event,
    Finished,
    KnobSet,
    Paused,
    Progress,
    Resumed,
    RolledBack,
    Sampled,
    Saved,
    Skipped,
    Started,
    StepLogged,
)
from llm.run import Run

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
VALIDATION_COLUMNS = ("step", "elapsed", "validation_loss", "perplexity", "bits_per_byte", "train_loss")


class Table:
    """Rows of float64 that grow at the end and are cut at a step; the first column is the step and never falls."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.rows = 0
        self._values: Array = np.empty((64, len(columns)))

    def __len__(self) -> int:
        return self.rows

    def append(self, event: Event) -> None:
        """Add one row from the event's attributes; None becomes NaN."""
        if self.rows == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        values = (getattr(event, name) for name in self.columns)
        self._values[self.rows] = [np.nan if value is None else value for value in values]
        self.rows += 1

    def __getitem__(self, column: str) -> Array:
        """One column, as a view: shape (rows,)."""
        return self._values[: self.rows, self.columns.index(column)]

    def keep_until(self, step: int) -> None:
        """Forget the rows after `step`."""
        self.rows = int(np.searchsorted(self["step"], step, side="right"))


@dataclass(frozen=True)
class RunMark:
    """Something that happened at a step: `kind` is save, best, knob, skip or rollback."""

    step: int
    kind: str
    text: str


class RunCurves:
    """Follows one run's `events.jsonl`.

    `Started` and `RolledBack` void what was logged after their step, since a killed run logs those steps once more.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = Table(STEP_COLUMNS)
        self.validation = Table(VALIDATION_COLUMNS)
        self.marks: list[RunMark] = []
        self.samples: deque[Sampled] = deque(maxlen=2)
        self.started: Started | None = None
        self.progress: Progress | None = None
        self.last_step: StepLogged | None = None
        self.last_evaluation: Evaluated | None = None
        self.finished: Finished | None = None
        self.paused = False
        self.knobs: dict[str, Any] = {}
        """Live knobs that were set, by path, with the values now in effect."""
        self._tail = run.tail()

    def poll(self, limit: int = 1 << 21) -> list[Event]:
        """Take in what was logged since the last call, at most about `limit` bytes of it; returns those events."""
        events = self._tail.poll(limit)
        for event in events:
            handler = self._HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)
        return events

    @property
    def step(self) -> int:
        """The last completed step that is known."""
        if self.last_step is not None:
            return self.last_step.step
        return self.started.step if self.started is not None else 0

    @property
    def total_steps(self) -> int:
        return self.started.total_steps if self.started is not None else 0

    @property
    def is_preparing(self) -> bool:
        """Whether what was logged last belongs to the time before the first step."""
        return self.finished is None and (self.started is None or self.progress is not None)

    @property
    def best_validation(self) -> float | None:
        """The lowest finite validation loss so far, nats per token."""
        losses = self.validation["validation_loss"]
        finite = losses[np.isfinite(losses)]
        return float(finite.min()) if finite.size else None

    @property
    def seconds_left(self) -> float | None:
        """Expected training seconds to the end, from the pace of the last logged steps; None while it is unknown."""
        if self.total_steps == 0 or len(self.steps) == 0 or self.finished is not None:
            return None
        pace = self.steps["step_ms"][-20:]
        finite = pace[np.isfinite(pace) & (pace > 0)]
        return float(np.median(finite)) / 1000 * (self.total_steps - self.step) if finite.size else None

    def _on_started(self, event: Started) -> None:
        self._void_after(event.step)
        self.knobs.update(event.changed)
        self.started, self.progress, self.finished, self.paused = event, None, None, False

    def _on_progress(self, event: Progress) -> None:
        self.progress, self.finished = event, None

    def _on_step(self, event: StepLogged) -> None:
        if len(self.steps) and event.step <= self.steps["step"][-1]:
            self.steps.keep_until(event.step - 1)
        self.steps.append(event)
        self.last_step = event
        self.progress = None

    def _on_evaluated(self, event: Evaluated) -> None:
        if len(self.validation) and event.step <= self.validation["step"][-1]:
            self.validation.keep_until(event.step - 1)
        self.validation.append(event)
        self.last_evaluation = event

    def _on_sampled(self, event: Sampled) -> None:
        self.samples.append(event)

    def _on_saved(self, event: Saved) -> None:
        if event.kind == "checkpoint":
            self.marks.append(RunMark(event.step, "best" if event.best else "save", f"saved {event.path}"))

    def _on_knob(self, event: KnobSet) -> None:
        self.knobs[event.key] = event.value
        self.marks.append(RunMark(event.step, "knob", f"{event.key} {event.previous} → {event.value}"))

    def _on_skipped(self, event: Skipped) -> None:
        self.marks.append(RunMark(event.step, "skip", event.reason))

    def _on_rolled_back(self, event: RolledBack) -> None:
        self._void_after(event.step)
        self.marks.append(RunMark(event.step, "rollback", event.reason))

    def _on_paused(self, _event: Paused) -> None:
        self.paused = True

    def _on_resumed(self, _event: Resumed) -> None:
        self.paused = False

    def _on_finished(self, event: Finished) -> None:
        self.finished, self.progress, self.paused = event, None, False

    def _void_after(self, step: int) -> None:
        self.steps.keep_until(step)
        self.validation.keep_until(step)
        self.marks = [mark for mark in self.marks if mark.step <= step]
        if self.last_step is not None and self.last_step.step > step:
            self.last_step = None

    _HANDLERS: ClassVar[dict[type[Event], Callable[[RunCurves, Any], None]]] = {
        Started: _on_started,
        Progress: _on_progress,
        StepLogged: _on_step,
        Evaluated: _on_evaluated,
        Sampled: _on_sampled,
        Saved: _on_saved,
        KnobSet: _on_knob,
        Skipped: _on_skipped,
        RolledBack: _on_rolled_back,
        Paused: _on_paused,
        Resumed: _on_resumed,
        Finished: _on_finished,
    }
