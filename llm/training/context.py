"""What is being trained: what the loop and its parts share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from llm.config import RunConfig
from llm.core.bundle import Task
from llm.data.tokens.dataset import Dataset
from llm.device import Plan
from llm.events import Event
from llm.run import Run
from llm.training.batch_plan import BatchPlan
from llm.training.checkpoint import TrainerState
from llm.training.distributed import Ranks


class TrainingContext:
    """One training: `state` moves with every step, `config` with live knobs, `batch_plan` when memory runs out, and all
    else stays."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        state: TrainerState,
        dataset: Dataset,
        plan: Plan,
        batch_plan: BatchPlan,
        core_tasks: Sequence[Task] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.state = state
        self.dataset = dataset
        self.plan = plan
        self.batch_plan = batch_plan
        self.core_tasks = core_tasks
        self.ranks = ranks or Ranks()
        self.began = time.perf_counter() - state.elapsed

    def event(self, kind: type[Event], /, **values: Any) -> Event:
        """An event of the present step and second, unless `values` say otherwise."""
        return kind(**({"step": self.state.step, "elapsed": self.note_time()} | values))

    def note_time(self) -> float:
        """Seconds of training so far; the state is told."""
        self.state.elapsed = time.perf_counter() - self.began
        return self.state.elapsed

    def forget_time(self, seconds: float) -> None:
        """Time in which nothing was trained does not count."""
        self.began += seconds
