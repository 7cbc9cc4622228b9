"""The context that the training loop and its parts share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm.config import RunConfig
from llm.core.bundle import Task
from llm.data.tokens.dataset import Dataset
from llm.device import Plan
from llm.events import Event
from llm.run import Run
from llm.training.batch_plan import BatchPlan
from llm.training.distributed import Ranks
from llm.training.dpo import References
from llm.training.grpo import Rollouts
from llm.training.state import TrainerState


@dataclass
class StepContext:
    """What an optimizer step needs. `state` changes with every step, `config` with live settings, and `batch_plan` when
    a micro-batch runs out of memory."""

    config: RunConfig
    state: TrainerState
    plan: Plan
    batch_plan: BatchPlan
    ranks: Ranks = field(default_factory=Ranks)

    def change_plan(self, **changes: Any) -> None:
        """Change fields of `plan`, also in the state, so that a resumed run keeps them."""
        self.plan = replace(self.plan, **changes)
        self.state.plan = self.plan.as_json()


@dataclass
class TrainingContext(StepContext):
    """A training of `run` on `dataset`. `core_tasks` is empty where the run does not measure CORE; `references` are the
    preference pairs of dpo, `rollouts` the source of questions and answers of grpo, None in other stages. `metrics` are
    the names of the objective's metrics. `is_resumed`: whether the state is that of a checkpoint."""

    run: Run = field(kw_only=True)
    dataset: Dataset = field(kw_only=True)
    core_tasks: Sequence[Task] = ()
    references: References | None = None
    rollouts: Rollouts | None = None
    metrics: tuple[str, ...] = ()
    is_resumed: bool = False

    def __post_init__(self) -> None:
        self.started = time.perf_counter() - self.state.elapsed

    def event(self, kind: type[Event], /, **values: Any) -> Event:
        """An event with the current step and elapsed time, and `values`, which may override them."""
        return kind(**({"step": self.state.step, "elapsed": self.update_elapsed()} | values))

    def update_elapsed(self) -> float:
        """Set `state.elapsed` to the seconds of training so far, and return it."""
        self.state.elapsed = time.perf_counter() - self.started
        return self.state.elapsed

    def exclude_time(self, seconds: float) -> None:
        """Subtract a pause from the elapsed time."""
        self.started += seconds
