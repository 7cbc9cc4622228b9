"""Recover from a failure: roll back to a checkpoint, or halve the micro-batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from llm.errors import UserError
from llm.events import Event, RolledBack, Warned
from llm.run import CheckpointInfo
from llm.run.checkpoints import is_intact
from llm.training.checkpoint import restore_state
from llm.training.context import TrainingContext
from llm.training.metrics import StepMetrics
from llm.training.spikes import LAG

Reason = Literal["", "not finite", "spike"]


class Recovery:
    """Rolls a training back: after `train.max_bad_steps` non-finite steps in a row, or after a loss spike."""

    def __init__(self, context: TrainingContext, step_metrics: StepMetrics) -> None:
        self.context = context
        self.step_metrics = step_metrics
        self.rolled_back_at = -1

    @property
    def reason(self) -> Reason:
        """Why to roll back before the next step, or "". A spike waits until its loss is read on every device."""
        train, spike = self.context.config.train, self.context.state.spikes.due
        if self.step_metrics.bad_steps >= train.max_bad_steps:
            return "not finite"
        must_undo = train.on_spike == "roll-back" and spike and self.context.state.step >= spike + LAG
        return "spike" if must_undo else ""

    def roll_back(self, reason: Reason) -> Event:
        """Roll back to an intact checkpoint. Call it with no save in progress and all step results read."""
        intact = [info for info in self.context.run.checkpoints() if is_intact(info)]
        return self._after_spike(intact) if reason == "spike" else self._after_bad_steps(intact)

    def _after_bad_steps(self, intact: list[CheckpointInfo]) -> Event:
        """Roll back to the newest checkpoint. UserError for a second time without a checkpoint in between."""
        if not intact or self.rolled_back_at >= intact[-1].step:
            raise UserError(
                f"the loss stayed non-finite for {self.context.config.train.max_bad_steps} steps in a row; "
                "lower train.lr, lengthen schedule.warmup_steps, or set train.clip."
            )
        return self._restore(intact[-1], "the loss was not finite several steps in a row")

    def _after_spike(self, intact: list[CheckpointInfo]) -> Event:
        """Roll back to before the spike and record it in the detector, so that a second one there does not roll back
        again."""
        detector = self.context.state.spikes
        spike = next(entry for entry in detector.seen if entry[0] == detector.due)
        detector.due = 0
        before = [info for info in intact if info.step < spike[0]]
        if not before:
            message = f"no checkpoint is older than the loss spike at step {spike[0]}; training continues"
            return self.context.event(Warned, message=message)
        event = self._restore(before[-1], f"loss spike at step {spike[0]}")
        self.context.state.spikes.seen.append((before[-1].step, spike[1], True))
        return event

    def _restore(self, info: CheckpointInfo, reason: str) -> Event:
        """Restore `info`, but keep the settings made since, and the data position, so that other batches follow."""
        state, before = self.context.state, replace(self.context.state)
        restore_state(state, info)
        state.overrides, state.micro_batch = before.overrides, before.micro_batch
        state.global_batch_size = before.global_batch_size
        state.batch_index, state.data_cursor = before.batch_index, before.data_cursor
        self.rolled_back_at = before.step
        self.step_metrics.restart()
        return self.context.event(RolledBack, from_step=before.step, reason=reason)


def halve_micro_batch(context: TrainingContext) -> Event:
    """Halve the micro-batch that ran out of memory; the global batch size stays. UserError if it cannot be halved."""
    batch_plan, ranks = context.batch_plan, context.ranks.world_size
    size = batch_plan.micro_batch(ranks)
    if size % 2 or ranks > 1:
        advice = "lower train.batch_size, train.seq_len or the size of the model"
        raise UserError(f"a micro-batch of {size} × {batch_plan.seq_len} tokens does not fit in memory; {advice}.")
    if context.plan.device.startswith("cuda"):
        torch.cuda.empty_cache()
    context.state.micro_batch = size // 2
    context.batch_plan = replace(batch_plan, grad_accum_steps=batch_plan.grad_accum_steps * 2)
    message = (
        f"out of memory: from now on {context.batch_plan.grad_accum_steps} micro-batches of {size // 2} sequences "
        f"instead of {size}; a step is still {batch_plan.tokens_per_step} tokens"
    )
    return context.event(Warned, message=message)
