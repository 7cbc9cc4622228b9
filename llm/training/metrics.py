"""What steps measured: read off the device late, so that no step waits for its own loss, and made into events."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from llm.device import memory_in_use, peak_flops
from llm.events import Event, Skipped, StepLogged, Warned
from llm.training.context import TrainingContext
from llm.training.spikes import LAG
from llm.training.step import Rows, StepResult

LOG_SECONDS = 0.1
SHOWN_ROWS, SHOWN_TOKENS = 8, 100  # of a batch that was skipped, in the log
LOSS_SCALE_STEPS, LOSS_SCALE_MOST = 2000, 2.0**24


class StepMetrics:
    """The results of the last steps. On a GPU at most `LAG` of them are unread. `bad_steps` counts those in a row that
    were not finite."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.unread: deque[tuple[StepResult, bool, np.ndarray]] = deque()
        self.most_unread = LAG if context.plan.device.startswith("cuda") else 0
        self.peak_flops = peak_flops(context.plan.device)
        self.bad_steps = 0
        self.restart()

    def restart(self) -> None:
        """Measure speed from here on: the state has just been restored."""
        self.bad_steps = 0
        self.last_log = (time.perf_counter(), self.context.state.step)

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """What is done meanwhile (an evaluation, a save, a pause) does not count as the time of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self.last_log = (min(now, self.last_log[0] + now - began), self.last_log[1])

    def add(self, result: StepResult, batch: Rows) -> Iterator[Event]:
        """Take in the result of a step; the events of those that are read now."""
        every = self.context.config.train.log_every
        if every:
            wanted = result.step % every == 0
        else:
            wanted = time.perf_counter() - self.last_log[0] >= LOG_SECONDS
        wanted = wanted or result.step in (1, self.context.batch_plan.steps)
        self.unread.append((result, wanted, batch[0]))
        yield from self.read(leave=self.most_unread)

    def read(self, leave: int = 0) -> Iterator[Event]:
        """Read results until at most `leave` remain unread."""
        while len(self.unread) > leave:
            result, wanted, inputs = self.unread.popleft()
            if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
                yield from self._finite(result, inputs)
            else:
                yield self._not_finite(result, inputs)
            if wanted:
                yield self._logged(result)

    def _finite(self, result: StepResult, inputs: np.ndarray) -> Iterator[Event]:
        self.bad_steps = 0
        self._grow_loss_scale()
        watch, mode = self.context.state.spikes, self.context.config.train.on_spike
        said = watch.update(result.step, result.loss)
        if not result.is_applied:
            yield self._skipped(result, inputs, f"{said}; the weights were left as they were")
        elif said and watch.is_first:
            yield self.context.event(Warned, step=result.step, message=said)
            watch.due = result.step if mode == "roll-back" else 0

    def _not_finite(self, result: StepResult, inputs: np.ndarray) -> Event:
        state = self.context.state
        if self.context.plan.precision == "fp16" and state.loss_scale > 1.0:
            state.loss_scale /= 2  # an overflow of the scaled gradients, not of the model
            state.steps_at_scale = 0
            return self._skipped(result, inputs, f"fp16 overflow; loss scale is now {state.loss_scale:g}")
        self.bad_steps += 1
        return self._skipped(result, inputs, "loss or gradient was not finite; the weights were left as they were")

    def _skipped(self, result: StepResult, inputs: np.ndarray, reason: str) -> Event:
        decode = self.context.dataset.tokenizer.decode
        text = "\n".join(decode(row[:SHOWN_TOKENS].tolist()) for row in inputs[:SHOWN_ROWS])
        return self.context.event(
            Skipped, step=result.step, reason=reason, loss=result.loss, grad_norm=result.grad_norm, text=text
        )

    def _grow_loss_scale(self) -> None:
        """fp16: try a finer resolution of small gradients again after many good steps (Micikevicius et al. 2018)."""
        state = self.context.state
        if self.context.plan.precision != "fp16":
            return
        state.steps_at_scale += 1
        if state.steps_at_scale >= LOSS_SCALE_STEPS:
            state.loss_scale = min(state.loss_scale * 2, LOSS_SCALE_MOST)
            state.steps_at_scale = 0

    def _logged(self, result: StepResult) -> Event:
        context, now = self.context, time.perf_counter()
        before, step_before = self.last_log
        self.last_log = (now, result.step)
        seconds = (now - before) / max(1, result.step - step_before)
        rate = context.batch_plan.tokens_per_step / seconds
        if math.isfinite(result.loss):  # a checkpoint says only what is a number
            context.state.metrics["loss"] = result.loss
        return context.event(
            StepLogged,
            step=result.step,
            tokens_seen=result.tokens_seen,
            loss=result.loss,
            lr=result.lr,
            lr_multiplier=result.lr_multiplier,
            grad_norm=result.grad_norm,
            step_ms=seconds * 1000,
            tokens_per_second=rate,
            total_flops=result.tokens_seen * context.batch_plan.flops_per_token,
            memory_bytes=memory_in_use(context.plan.device),
            mfu=rate * context.batch_plan.flops_per_token / self.peak_flops if self.peak_flops else None,
        )
