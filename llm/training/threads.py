"""Choose the number of CPU threads again when steps have become much slower or faster.

While another process is busy, two threads are slower than one; when it has ended, one thread is slower than two. A
change takes effect before a checkpoint is saved, so that a run resumed from it uses the same number.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator

import torch

from llm.device import fastest_threads
from llm.events import Event, Warned
from llm.limits import usable_cores
from llm.load import busy_processes
from llm.training.context import TrainingContext
from llm.training.distributed import LossFn
from llm.training.length import time_step
from llm.training.step import Rows

CHANGE = 1.25  # ratio of step times from which the number of threads is measured again
RECENT_STEPS = 20


class ThreadWatch:
    """Tracks the time of steps, and chooses `plan.threads` again when it has changed over RECENT_STEPS.

    Active only in a single process on a CPU with several cores, and if `train.threads` does not set the number.
    """

    def __init__(self, context: TrainingContext, loss_fn: LossFn) -> None:
        self.context, self.loss_fn = context, loss_fn
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.baseline = 0.0
        self.batch: Rows = ()
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

    @property
    def slowdown(self) -> float:
        """The median time of the recent steps over that of the first ones; 1 while there are too few."""
        if not self.baseline or len(self.recent) < RECENT_STEPS:
            return 1.0
        return statistics.median(self.recent) / self.baseline

    def choose_again(self) -> Iterator[Event]:
        """If the speed has changed, measure steps with other numbers of threads; yields a warning if one is faster."""
        slowdown = self.slowdown
        if 1 / CHANGE < slowdown < CHANGE:
            return
        context, before = self.context, self.context.plan.threads
        threads = fastest_threads(lambda: time_step(context, self.batch, self.loss_fn))
        torch.set_num_threads(threads)
        self.recent.clear()
        self.baseline = 0.0
        if threads == before:
            return
        context.change_plan(threads=threads)
        change = f"{slowdown:.1f} times slower" if slowdown > 1 else f"{1 / slowdown:.1f} times faster"
        others = "".join(f"; {one}" for one in busy_processes()[:1])
        plural = "s" * (threads != 1)
        message = f"steps have become {change}{others}: training continues with {threads} thread{plural}, not {before}"
        yield context.event(Warned, message=message)
