"""Turn the measurements of steps into events. Values are read late, so that no step waits for its loss."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from llm.device import memory_in_use, peak_flops
from llm.events import Event, MetricsLogged, Skipped, StepLogged, Warned
from llm.training.context import TrainingContext
from llm.training.spikes import LAG
from llm.training.step import Rows, StepResult

LOG_SECONDS = 0.1
SHOWN_ROWS, SHOWN_TOKENS = 8, 100  # rows of a skipped batch that are logged, and tokens of each
LOSS_SCALE_STEPS, MAX_LOSS_SCALE = 2000, 2.0**24


class LastLog(NamedTuple):
    """When a step was last logged (`time.perf_counter`, without excluded time), the step, and its tokens seen."""

    seconds: float
    step: int
    tokens: int


class StepMetrics:
    """The results of the last steps, of which at most `LAG` are unread on a GPU. `bad_steps` counts the non-finite ones
    in a row."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.unread: deque[tuple[StepResult, bool, np.ndarray]] = deque()
        self.max_unread = LAG if context.plan.device.startswith("cuda") else 0
        self.peak_flops = peak_flops(context.plan.device)
        self.bad_steps = 0
        self.restart()

    def restart(self) -> None:
        """Start measuring anew after the state was restored."""
        self.bad_steps = 0
        self.last_log = LastLog(time.perf_counter(), self.context.state.step, self.context.state.tokens_seen)

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """Exclude the time in this context (an evaluation, a save, a pause) from the step time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self.last_log = self.last_log._replace(seconds=min(now, self.last_log.seconds + now - start))

    def add(self, result: StepResult, batch: Rows) -> Iterator[Event]:
        """Add the result of a step; yields the events of the results that are read now."""
        every = self.context.config.train.log_every
        if every:
            is_logged = result.step % every == 0
        else:
            is_logged = time.perf_counter() - self.last_log.seconds >= LOG_SECONDS
        is_logged = is_logged or result.step in (1, self.context.batch_plan.steps)
        self.unread.append((result, is_logged, batch[0]))
        yield from self.read(leave=self.max_unread)

    def read(self, leave: int = 0) -> Iterator[Event]:
        """Read results until at most `leave` remain unread."""
        while len(self.unread) > leave:
            result, is_logged, inputs = self.unread.popleft()
            if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
                yield from self._process_finite(result, inputs)
            else:
                yield self._process_non_finite(result, inputs)
            if is_logged:
                yield self._log_event(result)
                if names := self.context.metrics:
                    metrics = dict(zip(names, result.metrics, strict=True))
                    yield self.context.event(MetricsLogged, step=result.step, metrics=metrics)

    def _process_finite(self, result: StepResult, inputs: np.ndarray) -> Iterator[Event]:
        self.bad_steps = 0
        self._grow_loss_scale()
        detector, mode = self.context.state.spikes, self.context.config.train.on_spike
        spike = detector.update(result.step, result.loss)
        if not result.is_applied:
            yield self._skip_event(result, inputs, f"{spike}; the weights are unchanged")
        elif spike and detector.is_first:
            yield self.context.event(Warned, step=result.step, message=spike)
            detector.due = result.step if mode == "roll-back" else 0

    def _process_non_finite(self, result: StepResult, inputs: np.ndarray) -> Event:
        state = self.context.state
        if self.context.plan.precision == "fp16" and state.loss_scale > 1.0:
            state.loss_scale /= 2  # an overflow of the scaled gradients, not of the model
            state.steps_at_scale = 0
            return self._skip_event(result, inputs, f"fp16 overflow; loss scale is now {state.loss_scale:g}")
        self.bad_steps += 1
        return self._skip_event(result, inputs, "loss or gradient was not finite; the weights are unchanged")

    def _skip_event(self, result: StepResult, inputs: np.ndarray, reason: str) -> Event:
        decode = self.context.dataset.tokenizer.decode
        text = "\n".join(decode(row[:SHOWN_TOKENS].tolist()) for row in inputs[:SHOWN_ROWS])
        return self.context.event(
            Skipped, step=result.step, reason=reason, loss=result.loss, grad_norm=result.grad_norm, text=text
        )

    def _grow_loss_scale(self) -> None:
        """fp16: double the loss scale after many good steps (Micikevicius et al. 2018)."""
        state = self.context.state
        if self.context.plan.precision != "fp16":
            return
        state.steps_at_scale += 1
        if state.steps_at_scale >= LOSS_SCALE_STEPS:
            state.loss_scale = min(state.loss_scale * 2, MAX_LOSS_SCALE)
            state.steps_at_scale = 0

    def _log_event(self, result: StepResult) -> Event:
        context, now, last = self.context, time.perf_counter(), self.last_log
        self.last_log = LastLog(now, result.step, result.tokens_seen)
        seconds = (now - last.seconds) / max(1, result.step - last.step)
        rate = (result.tokens_seen - last.tokens) / (now - last.seconds)
        if math.isfinite(result.loss):  # checkpoints hold finite metrics only
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
