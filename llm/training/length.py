"""The length of a run given in minutes: the number of steps that this machine takes in that time, from measured
steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from llm.events import Progress
from llm.optim import clip_grad_norm, momentum_at
from llm.training.batch_plan import resolve_batch_plan
from llm.training.context import StepContext, TrainingContext
from llm.training.distributed import LossFn
from llm.training.objective import build_objective
from llm.training.step import Rows, accumulate_gradients

MEASURED_SECONDS, MIN_STEPS, MAX_STEPS = 2.0, 3, 30


def measure_length(context: TrainingContext, loss_fn: LossFn) -> Iterator[Progress]:
    """Measure `state.flops_per_second`, and set the steps of the batch plan accordingly.

    The speed is the median of a few steps after a warm-up. It is measured once and kept in the checkpoints, so that a
    resumed run has the same length and schedule. All ranks measure, and use the speed of the first.
    """
    state, plan = context.state, context.batch_plan
    batch = random_batch(context)
    time_step(context, batch, loss_fn)
    steps = int(MEASURED_SECONDS / time_step(context, batch, loss_fn))
    count = context.ranks.broadcast(min(max(steps, MIN_STEPS), MAX_STEPS))
    seconds = []
    for done in range(count):
        yield Progress(stage="Measuring the speed of a step", done=done, total=count, unit="steps", step=state.step)
        seconds.append(time_step(context, batch, loss_fn))
    rate = plan.flops_per_token * plan.tokens_per_step / statistics.median(seconds)
    state.flops_per_second = context.ranks.broadcast(rate)
    measured = resolve_batch_plan(
        context.config,
        context.dataset.tokenizer.vocab_size,
        len(context.dataset.train),
        flops_per_second=state.flops_per_second,
        global_batch_size=state.global_batch_size,
    )
    context.batch_plan = replace(plan, steps=measured.steps)


def random_batch(context: StepContext) -> Rows:
    """The arrays of a batch of this rank, (sequences, seq_len) each: inputs, targets, and for conversations the
    positions in them."""
    plan, vocab_size = context.batch_plan, context.state.model.config.vocab_size
    shape = (plan.global_batch_size // context.ranks.world_size, plan.seq_len + 1)
    tokens = np.random.default_rng(context.config.train.seed).integers(vocab_size, size=shape)
    positions = np.tile(np.arange(plan.seq_len), (shape[0], 1))
    more = [positions] * (build_objective(context.state.model, context.config).arrays - 2)
    return tokens[:, :-1], tokens[:, 1:], *more


def time_step(context: StepContext, batch: Rows, loss_fn: LossFn) -> float:
    """Seconds of a training step whose update is disabled: neither weights nor optimizer state change."""
    state, config = context.state, context.config
    began = time.perf_counter()
    loss = accumulate_gradients(context, batch, loss_fn)
    assert loss is not None
    clip_grad_norm(state.model.parameters(), config.train.clip)
    state.optimizer.step(
        0.0, torch.zeros((), dtype=torch.bool, device=loss.device), momentum=momentum_at(state.step, config)
    )
    state.optimizer.zero_grad()
    if loss.is_cuda:
        torch.cuda.synchronize(loss.device)
    return time.perf_counter() - began
