"""The number of CPU threads, chosen again where steps have become much slower or faster.

Two threads beside another busy process are slower than one, and one thread is slow once that process has ended. A
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
    """Follows the time of the steps, and chooses `plan.threads` again where it has changed for RECENT_STEPS.

    Only for a single process on a CPU with several cores, and not where `train.threads` states the number.
    """

    def __init__(self, context: TrainingContext, loss_fn: LossFn) -> None:
        self.context, self.loss_fn = context, loss_fn
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.usual = 0.0
        self.batch: Rows = ()
        is_alone = context.ranks.world_size == 1 and context.plan.device == "cpu"
        self.is_active = is_alone and usable_cores() > 1 and not context.config.train.threads

    def add(self, seconds: float, batch: Rows) -> None:
        """Record the wall time of a step, and its batch to measure with."""
        if not self.is_active:
            return
        self.batch = batch
        self.recent.append(seconds)
        if not self.usual and len(self.recent) == RECENT_STEPS:
            self.usual = statistics.median(self.recent)

    @property
    def slowdown(self) -> float:
        """The time of the recent steps relative to the usual ones; 1 while too few are known."""
        if not self.usual or len(self.recent) < RECENT_STEPS:
            return 1.0
        return statistics.median(self.recent) / self.usual

    def choose_again(self) -> Iterator[Event]:
        """Measure the number of threads if the speed has changed; an event if another one is faster."""
        slowdown = self.slowdown
        if 1 / CHANGE < slowdown < CHANGE:
            return
        context, before = self.context, self.context.plan.threads
        threads = fastest_threads(lambda: time_step(context, self.batch, self.loss_fn))
        torch.set_num_threads(threads)
        self.recent.clear()
        self.usual = 0.0
        if threads == before:
            return
        context.change_plan(threads=threads)
        change = f"{slowdown:.1f} times slower" if slowdown > 1 else f"{1 / slowdown:.1f} times faster"
        others = "".join(f"; {one}" for one in busy_processes()[:1])
        plural = "s" * (threads != 1)
        message = f"steps have become {change}{others}: training continues with {threads} thread{plural}, not {before}"
        yield context.event(Warned, message=message)
