"""How a longer run changes the learning rate: the schedule is stretched over the new length."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import RunConfig, diff
from llm.config.check import LENGTHS
from llm.config.overrides import Overrides
from llm.events import Started, StepLogged
from llm.run import Run
from llm.run.checkpoints import newest_step
from llm.run.fork import Parent, keeps_optimizer_state
from llm.run.log import last_event_of
from llm.training.resume_checks import config_for_resume

LENGTH_FIELDS = frozenset(f"train.{name}" for name in LENGTHS)
MIN_CHANGE = 1.01  # smaller ratios occur between steps of a schedule
SAMPLES = 1000  # future steps at which the rate is computed


@dataclass(frozen=True)
class RateChange:
    """How the learning rate changes: `last` is the rate of step `step`, the last one trained; `first`, `highest` and
    `final` are the first, highest and last rate of the steps up to `total`. All include `train.lr_multiplier`; `peak`
    is `train.lr`."""

    step: int
    total: int
    last: float
    first: float
    highest: float
    final: float
    peak: float

    @property
    def is_jump(self) -> bool:
        """Whether the rate changes by more than a schedule does from step to step."""
        return not (self.last / MIN_CHANGE <= self.first <= self.last * MIN_CHANGE)

    def describe(self) -> str:
        """The change in one sentence."""
        higher = f", rises to {self.highest:.2e}" if self.highest > self.first * MIN_CHANGE else ""
        return (
            f"the schedule is stretched over the new length: the learning rate goes from {self.last:.2e}, where the "
            f"run stands, to {self.first:.2e} at step {self.step + 1}{higher}, and ends at {self.final:.2e} at step "
            f"{self.total}"
        )

    def keeping(self) -> tuple[tuple[str, str], ...]:
        """Overrides under which all further steps have the rate `last`."""
        return (
            ("schedule.kind", "constant"),
            ("schedule.warmup_steps", "0"),
            ("schedule.warmup_ratio", "0"),
            ("train.lr_multiplier", repr(self.last / self.peak)),
        )


def rate_change(run: Run, overrides: Overrides) -> RateChange | None:
    """How the rate changes when `run` is resumed with `overrides`; None where they set no new length, where that length
    is not known in advance, or where the run has no checkpoint. UserError for overrides that are refused."""
    if not any(path in LENGTH_FIELDS for path, _ in overrides):
        return None
    log = run.path / "events.jsonl"
    started, logged, step = (
        last_event_of(log, Started),
        last_event_of(log, StepLogged),
        newest_step(run.checkpoint_directory),
    )
    if started is None or logged is None or step <= 0:
        return None
    before, config = config_for_resume(run, ()), config_for_resume(run, overrides)
    return change_at(step, started.total_steps, before, new_total(started, before, config), config)


def fork_rate_change(parent: Parent, config: RunConfig) -> RateChange | None:
    """How the rate changes in a fork of `parent` that continues at its step with another length; None as for
    `rate_change`."""
    if not keeps_optimizer_state(parent, config):
        return None
    started = last_event_of(parent.run.path / "events.jsonl", Started)
    if started is None or not any(path in LENGTH_FIELDS for path, _, _ in diff(parent.config, config)):
        return None
    before = new_total(started, parent.config, parent.config)  # the parent may have been extended after this step
    total = new_total(started, parent.config, config)
    return change_at(parent.checkpoint.step, before or started.total_steps, parent.config, total, config)


def change_at(
    step: int, total_before: int, before: RunConfig, total: int | None, config: RunConfig
) -> RateChange | None:
    """The change after `step`, from a schedule over `total_before` steps to that of `config` over `total`."""
    from llm.optim.schedule import lr_at  # its package loads torch

    if total is None or total <= step:
        return None
    steps = [*range(step, total, max(1, (total - step) // SAMPLES)), total - 1]
    rates = [lr_at(index, total, config) for index in steps]
    last = lr_at(step - 1, total_before, before)
    return RateChange(step, total, last, rates[0], max(rates), rates[-1], config.train.lr)


def new_total(started: Started, before: RunConfig, config: RunConfig) -> int | None:
    """Steps of the new length, computed from the last `Started` event; None where it cannot be."""
    train, per_step = config.train, started.tokens_per_step
    if train.steps:
        return train.steps
    if train.tokens:
        return max(1, round(train.tokens / per_step))
    if train.tokens_per_parameter:
        return max(1, round(train.tokens_per_parameter * started.parameters / per_step))
    for name in ("epochs", "flops", "minutes"):
        new, old = float(getattr(train, name)), float(getattr(before.train, name))
        if new and old:
            return max(1, round(started.total_steps * new / old))
    return None
