"""One optimizer step: micro-batches, backward, clipping, update. Nothing here waits for a value on the device."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.model.loss import IGNORE_INDEX
from llm.optim import clip_grad_norm, lr_at, lr_multiplier_at, momentum_at
from llm.training.context import StepContext
from llm.training.distributed import LossFn, no_sync_unless_last
from llm.training.state import TrainerState

Rows = tuple[np.ndarray, ...]
"""The arguments of the loss: inputs, targets (-1: ignored), and what a stage adds; one entry per sequence."""


@dataclass(frozen=True)
class StepResult:
    """The measurements of a step: `loss` (nats per token) and `grad_norm` (before clipping), read from the device on
    access. `lr` is the scheduled learning rate including `train.lr_multiplier`, and `lr_multiplier` its ratio to
    `train.lr`. A loss above `loss_limit` is a spike whose update was skipped."""

    step: int
    tokens_seen: int
    lr: float
    lr_multiplier: float
    loss_limit: float
    scalars: AsyncScalars

    @property
    def metrics(self) -> list[float]:
        """The metrics of the objective, in its order."""
        return self.scalars.values()[2:]

    @property
    def loss(self) -> float:
        return self.scalars.values()[0]

    @property
    def grad_norm(self) -> float:
        return self.scalars.values()[1]

    @property
    def is_applied(self) -> bool:
        """Whether the update moved the weights: loss and norm are finite, and the loss is within its limit."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm) and self.loss <= self.loss_limit


@dataclass(frozen=True)
class OutOfMemory:
    """A micro-batch did not fit in memory; the step changed nothing."""


class AsyncScalars:
    """Scalars copied to the host without blocking. On CUDA they go to pinned memory, and reading them waits for that
    copy alone; reading a device tensor would wait for every step queued since."""

    def __init__(self, scalars: Sequence[torch.Tensor]) -> None:
        self.host = list(scalars)
        self.copied: torch.cuda.Event | None = None
        if scalars[0].is_cuda:
            packed = torch.stack([scalar.double() for scalar in scalars])
            pinned = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            pinned.copy_(packed, non_blocking=True)
            self.host = list(pinned)
            self.copied = torch.cuda.Event()
            self.copied.record(torch.cuda.current_stream(packed.device))  # not that of the thread's current device

    def values(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        return [float(scalar) for scalar in self.host]


def take_step(
    context: StepContext,
    batch: Rows,
    loss_fn: LossFn,
    should_abandon: Callable[[], bool] = lambda: False,
    num_targets: int = 0,
) -> StepResult | OutOfMemory | None:
    """Train on one batch: this rank's (sequences, seq_len) inputs and targets. `num_targets` as in
    `accumulate_gradients`.

    Returns None when `should_abandon` is true between two micro-batches, and `OutOfMemory` when one does not fit; both
    discard the partial gradients and leave the state unchanged. A loss that is not finite, or is above the spike limit
    where `train.on_spike` is "skip", counts as a step but moves no weight: the device decides.
    """
    state, train, step = context.state, context.config.train, context.state.step
    values = accumulate_if_it_fits(context, batch, loss_fn, should_abandon, num_targets)
    if not isinstance(values, torch.Tensor):
        state.optimizer.zero_grad()
        return values
    loss, *metrics = context.ranks.mean(values).reshape(-1).unbind()
    unscale_gradients(state)
    group = None if state.sharding is None else state.sharding.group
    grad_norm = clip_grad_norm(state.model.parameters(), train.clip, group)
    loss_limit = state.spikes.baseline(step + 1).limit if train.on_spike == "skip" else math.inf
    is_applied = torch.isfinite(loss) & torch.isfinite(grad_norm) & (loss <= loss_limit)
    lr = lr_at(step, context.batch_plan.steps, context.config)
    multiplier = lr_multiplier_at(step, context.batch_plan.steps, context.config)
    with state.lock:
        state.optimizer.step(multiplier, is_applied, momentum=momentum_at(step, context.config))
        state.step += 1
    state.optimizer.zero_grad()
    state.batch_index += 1
    state.tokens_seen += batch[0].size * context.ranks.world_size
    return StepResult(
        state.step, state.tokens_seen, lr, multiplier, loss_limit, AsyncScalars((loss, grad_norm, *metrics))
    )


def unscale_gradients(state: TrainerState) -> None:
    """Divide the gradients by `state.loss_scale`."""
    if state.loss_scale != 1.0:
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= state.loss_scale


def accumulate_if_it_fits(
    context: StepContext, batch: Rows, loss_fn: LossFn, should_abandon: Callable[[], bool], num_targets: int
) -> torch.Tensor | OutOfMemory | None:
    """As `accumulate_gradients`, but OutOfMemory where a micro-batch does not fit. When this returns, the frames of the
    exception, which hold the memory, are gone."""
    try:
        return accumulate_gradients(context, batch, loss_fn, should_abandon, num_targets)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return OutOfMemory()


def accumulate_gradients(
    context: StepContext,
    batch: Rows,
    loss_fn: LossFn,
    should_abandon: Callable[[], bool] = lambda: False,
    num_targets: int = 0,
) -> torch.Tensor | None:
    """Add the gradients of a batch, times `state.loss_scale`, to the parameters; returns its mean loss, or None if
    abandoned.

    Where the loss function returns a vector, only its first value has a gradient, and the result is the mean vector.

    The mean is over the targets of the batch that are not ignored; `num_targets` is their number over all ranks, 0 if
    none is ignored (`num_items_in_batch` in transformers). Gradients are averaged over ranks with the last micro-batch.
    ValueError unless `grad_accum_steps` micro-batches of equal size make up the batch.
    """
    state, plan, count = context.state, context.plan, context.batch_plan.grad_accum_steps
    inputs, targets = batch[:2]
    if count < 1 or len(inputs) < count or len(inputs) % count:
        raise ValueError(f"{len(inputs)} sequences cannot be split into {count} equal micro-batches")
    size = len(inputs) // count
    divisors = micro_batch_divisors(targets, count, num_targets, context.ranks.world_size)
    loss: torch.Tensor | None = None
    for micro in range(count):
        # Several ranks stop only between steps: all must take part in the reduction of the gradients.
        if micro and context.ranks.world_size == 1 and should_abandon():
            return None
        rows = slice(micro * size, (micro + 1) * size)
        # Seeded per micro-batch, so that a resumed run draws the same dropout masks as an uninterrupted one.
        seed = micro_batch_seed(context.config.train.seed, state.batch_index, micro, context.ranks.rank)
        seed_generators(seed, plan.device)
        with no_sync_unless_last(loss_fn, last=micro == count - 1):
            with plan.autocast():
                micro_loss = loss_fn(*(to_device(array[rows], plan.device) for array in batch))
            micro_loss = micro_loss / divisors[micro]
            (micro_loss.reshape(-1)[0] * state.loss_scale).backward()
        loss = micro_loss.detach() if loss is None else loss + micro_loss.detach()
    return loss


def micro_batch_divisors(targets: np.ndarray, count: int, num_targets: int, world_size: int) -> list[float]:
    """What to divide the mean loss of each of `count` micro-batches by, so that the sum over micro-batches and the mean
    over ranks is the mean over all `num_targets` targets; inf for a micro-batch in which all are ignored."""
    if not num_targets:
        return [count] * count
    counts = [np.count_nonzero(part != IGNORE_INDEX) for part in np.split(targets, count)]
    return [num_targets / (part_targets * world_size) if part_targets else math.inf for part_targets in counts]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. CUDA raises a type of its own; other allocators are recognized by their message,
    also cuBLAS and cuDNN, which allocate workspaces."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    messages = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in messages)


def seed_generators(seed: int, device: str) -> None:
    """Seed the default generator of the CPU, and those of all other devices unless `device` is the CPU.

    `torch.manual_seed` seeds all of them at once, and formats the stack three times where there is no GPU: a third of
    a millisecond.
    """
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def micro_batch_seed(seed: int, batch_index: int, micro: int, rank: int) -> int:
    """A distinct 63-bit seed for every micro-batch of every rank and run (multiplicative mixing by odd constants)."""
    place = micro + (rank << 32)
    mixed = seed * 0x9E3779B97F4A7C15 + batch_index * 0xC2B2AE3D27D4EB4F + place * 0x165667B19E3779F9
    return mixed & 0x7FFF_FFFF_FFFF_FFFF


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """The array as a contiguous tensor on `device`: a copy from pinned memory overlaps with computation only if it is
    contiguous, and compiled code is specialized on strides."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
