"""The largest micro-batch that fits in memory, for `train.batch_size = 0`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from llm.config.fit import step_bytes
from llm.errors import UserError
from llm.events import Progress
from llm.limits import memory
from llm.model.counts import Precision
from llm.training.context import StepContext
from llm.training.length import random_batch, time_step
from llm.training.objective import build_objective
from llm.training.step import is_out_of_memory

CPU_SHARE = 0.8  # of the available memory: a process above its limit is killed, and the estimate is within 25 %
GPU_SHARE = 1.5  # of the free memory: there, a candidate that is too large costs only a failed probe


def choose_micro_batch(context: StepContext) -> Iterator[Progress]:
    """Set `state.micro_batch` and the batch plan to the largest micro-batch that fits, unless one is set.

    The candidates are the divisors of a rank's sequences, from the largest one that fits by estimate. A training step
    with a disabled update tries them in turn until one does not run out of memory. All ranks use the smallest size that
    one of them found. Checkpoints store it. UserError if not even one sequence fits.
    """
    state, plan, ranks = context.state, context.batch_plan, context.ranks
    if context.config.train.batch_size or state.micro_batch:
        return
    rows = plan.global_batch_size // ranks.world_size
    sizes = candidates(context, rows, available_bytes(context))
    chosen = 0
    for done, size in enumerate(sizes):
        yield Progress(stage="Finding the largest micro-batch that fits", done=done, total=len(sizes), unit="sizes")
        if fits(context, size):
            chosen = size
            break
    ((chosen,), *_) = sorted(ranks.all_gather([[chosen]]))
    if not chosen:
        raise UserError(
            f"a step with one sequence of {plan.seq_len} tokens does not fit in memory; lower train.seq_len or the "
            "size of the model, or set train.recompute to blocks."
        )
    state.micro_batch = chosen
    context.batch_plan = replace(plan, grad_accum_steps=rows // chosen)


def available_bytes(context: StepContext) -> float:
    """The memory that a step of this rank may take by the estimate; it decides which candidate is tried first."""
    if context.plan.device.startswith("cuda"):
        return GPU_SHARE * torch.cuda.mem_get_info(context.plan.device)[0]
    return CPU_SHARE * memory().available / context.ranks.per_machine


def candidates(context: StepContext, rows: int, available: float) -> list[int]:
    """The divisors of `rows`, largest first, whose estimated memory is at most `available`; 1 at least.

    The estimate counts the state, which is allocated already, and so leaves room for the copy that is being saved.
    """
    config, model, seq_len = context.config, context.state.model.config, context.batch_plan.seq_len

    precision: Precision = "fp32" if context.plan.precision == "fp32" else "bf16"  # fp16 takes as much

    def estimate(size: int) -> int:
        train = replace(config.train, batch_size=size, precision=precision)
        return step_bytes(replace(config, train=train), model, seq_len)

    divisors = [size for size in range(rows, 0, -1) if rows % size == 0]
    return [size for size in divisors if estimate(size) <= available] or [1]


def fits(context: StepContext, size: int) -> bool:
    """Whether a step with a micro-batch of `size` sequences succeeds. Neither weights nor optimizer state change."""
    ranks = context.ranks.world_size
    probe = replace(context, batch_plan=replace(context.batch_plan, global_batch_size=size * ranks, grad_accum_steps=1))
    is_refused = False
    try:
        time_step(probe, random_batch(probe), build_objective(context.state.model, context.config).loss_fn)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        is_refused = True
    if is_refused:  # outside `except`: the exception's frames, which hold the memory, are gone here
        context.state.optimizer.zero_grad()
        if context.plan.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return not is_refused
