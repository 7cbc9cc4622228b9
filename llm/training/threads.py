"""Choose the number of CPU threads again when steps have become much slower or faster, or processors are idle.

While another process is busy, two threads may be slower than one; when it has ended, one thread is slower than two. A
change takes effect before a checkpoint is saved, so that a run resumed from it uses the same number.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Generator

import torch

from llm.device import fastest_threads
from llm.events import Event, Progress, Warned
from llm.limits import usable_cores
from llm.load import busy_processes, idle_core_seconds
from llm.training.context import TrainingContext
from llm.training.distributed import LossFn
from llm.training.length import time_step
from llm.training.step import Rows

CHANGE = 1.25  # ratio of step times from which the number of threads is measured again
RECENT_STEPS = 20
MAX_STEP_SECONDS = 2.0  # the measurement takes six steps or more
MIN_WAIT, MAX_WAIT = 20.0, 600.0  # seconds between two measurements; doubled by each that changes nothing
CHECK_SECONDS = 5.0
IDLE_SHARE = 0.8  # of the processors that more threads would use, at two checks in a row


class ThreadWatch:
    """Tracks the time of steps and idle processors, and chooses `plan.threads` again when it may be wrong.

    Active only in a single process on a CPU with several cores, and if `train.threads` does not set the number.
    """

    def __init__(self, context: TrainingContext, loss_fn: LossFn) -> None:
        self.context, self.loss_fn = context, loss_fn
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.baseline = 0.0
        self.batch: Rows = ()
        self.wait, self.measured_at = MIN_WAIT, time.monotonic()
        self.idle = IdleCores()
        is_alone = context.ranks.world_size == 1 and context.plan.device == "cpu"
        self.is_active = is_alone and usable_cores() > 1 and not context.config.train.threads

    def add(self, seconds: float, batch: Rows) -> None:
        """Record the wall time of a step, and its batch to measure with."""
        if not self.is_active:
            return
        self.batch = batch
        self.recent.append(seconds)
        if not self.baseline and len(self.recent) == RECENT_STEPS:
            self.baseline = statistics.median(self.recent)
        self.idle.check(IDLE_SHARE * (usable_cores() - self.context.plan.threads))

    @property
    def slowdown(self) -> float:
        """The median time of the recent steps over that of the first ones; 1 while there are too few."""
        if not self.baseline or len(self.recent) < RECENT_STEPS:
            return 1.0
        return statistics.median(self.recent) / self.baseline

    @property
    def is_due(self) -> bool:
        """Whether the number of threads may be wrong, and the last measurement is long enough ago."""
        if not self.is_active or not self.recent or time.monotonic() - self.measured_at < self.wait:
            return False
        has_changed = not 1 / CHANGE < self.slowdown < CHANGE
        return (has_changed or self.idle.lasts) and statistics.median(self.recent) <= MAX_STEP_SECONDS

    def choose_again(self) -> Generator[Event, None, bool]:
        """Measure steps with other numbers of threads; yields a warning and returns True if one is faster."""
        slowdown, context, before = self.slowdown, self.context, self.context.plan.threads
        yield Progress(stage="Measuring the number of threads", done=0, total=1, step=context.state.step)
        threads = fastest_threads(lambda: time_step(context, self.batch, self.loss_fn), before)
        torch.set_num_threads(threads)
        self.recent.clear()
        self.baseline = 0.0
        self.measured_at = time.monotonic()
        if threads == before:
            self.wait = min(2 * self.wait, MAX_WAIT)
            return False
        self.wait = MIN_WAIT
        self.idle = IdleCores()
        context.change_plan(threads=threads)
        message = f"{reason(slowdown)}: training continues with {threads} thread{'s' * (threads != 1)}, not {before}"
        yield context.event(Warned, message=message)
        return True


class IdleCores:
    """Whether processors of this machine stay idle."""

    def __init__(self) -> None:
        self.lasts = False
        self._were_idle = False
        self._checked = (time.monotonic(), idle_core_seconds())

    def check(self, wanted: float) -> None:
        """Set `lasts` to whether `wanted` processors were idle since the last check and before it; at most every
        `CHECK_SECONDS`."""
        then, idle_then = self._checked
        now = time.monotonic()
        if now - then < CHECK_SECONDS:
            return
        idle_now = idle_core_seconds()
        are_idle = 0 < wanted <= (idle_now - idle_then) / (now - then)
        self.lasts, self._were_idle = are_idle and self._were_idle, are_idle
        self._checked = now, idle_now


def reason(slowdown: float) -> str:
    """Why another number of threads is chosen."""
    if 1 / CHANGE < slowdown < CHANGE:
        return "processors are idle"
    change = f"{slowdown:.1f} times slower" if slowdown > 1 else f"{1 / slowdown:.1f} times faster"
    others = "".join(f"; {one}" for one in busy_processes()[:1])
    return f"steps have become {change}{others}"
