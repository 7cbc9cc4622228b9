"""One optimiser step: micro-batches, backward, clipping, update. No value is read off the device here."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.device import Plan
from llm.optim import clip_grad_norm
from llm.training.checkpoint import TrainerState
from llm.training.distributed import LossFn, Ranks, no_reduction_unless_last

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class StepResult:
    """What a step measured: `loss` (nats per token) and `grad_norm` (before clipping), on their way from the device."""

    step: int
    tokens_seen: int
    lr: float
    loss_limit: float
    measured: AsyncScalars

    @property
    def loss(self) -> float:
        return self.measured.values()[0]

    @property
    def grad_norm(self) -> float:
        return self.measured.values()[1]

    @property
    def ok(self) -> bool:
        """Whether both are finite and the loss within its limit, without which nothing moved."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm) and self.loss <= self.loss_limit


@dataclass(frozen=True)
class OutOfMemory:
    """The micro-batches of a step did not fit in memory; nothing moved."""


class AsyncScalars:
    """Scalars copied to the host. On CUDA the copy goes to pinned memory, and reading it waits for the copy alone:
    reading a tensor on the device would wait for every step that was queued since."""

    def __init__(self, scalars: Sequence[torch.Tensor]) -> None:
        self.host = list(scalars)
        self.arrived: torch.cuda.Event | None = None
        if scalars[0].is_cuda:
            packed = torch.stack([scalar.double() for scalar in scalars])
            pinned = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            pinned.copy_(packed, non_blocking=True)
            self.host = list(pinned)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def values(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return [float(scalar) for scalar in self.host]


def take_step(
    state: TrainerState,
    batch: Rows,
    plan: Plan,
    *,
    loss_fn: LossFn,
    accumulation: int,
    clip: float,
    lr: float,
    lr_scale: float,
    seed: int,
    ranks: Ranks,
    abandon: Callable[[], bool],
    loss_limit: float = math.inf,
    momentum: float | None = None,
) -> StepResult | OutOfMemory | None:
    """Train on one batch, (rows, seq_len) inputs and targets, in `accumulation` equal micro-batches.

    Of several ranks each passes its own rows; gradients are averaged over ranks with the last micro-batch.

    `lr_scale` multiplies every group's rate; `lr` is only reported. `momentum` is Muon's, where it is scheduled.
    Returns None when `abandon` said so between micro-batches: the partial gradients are discarded and the state is that
    of the last completed step. The same goes for a `OutOfMemory`. A loss above `loss_limit`, or one that is not finite,
    makes a step that moves nothing: the device decides.
    """
    loss: torch.Tensor | None = None
    fits = True
    try:
        loss = accumulate_gradients(state, batch, plan, loss_fn, accumulation, seed, ranks, abandon)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    if loss is None:  # here the exception, and with it the memory that its frames held, is gone
        state.optimizer.zero_grad()
        return None if fits else OutOfMemory()
    loss = ranks.mean(loss)
    if state.loss_scale != 1.0:
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= state.loss_scale
    grad_norm = clip_grad_norm(state.model.parameters(), clip)
    ok = torch.isfinite(loss) & torch.isfinite(grad_norm) & (loss <= loss_limit)
    with state.lock:
        state.optimizer.step(lr_scale, ok, momentum=momentum)
        state.step += 1
    state.optimizer.zero_grad()
    state.batch_index += 1
    state.tokens_seen += batch[0].size * ranks.world_size
    return StepResult(state.step, state.tokens_seen, lr, loss_limit, AsyncScalars((loss, grad_norm)))


def accumulate_gradients(
    state: TrainerState,
    batch: Rows,
    plan: Plan,
    loss_fn: LossFn,
    accumulation: int,
    seed: int,
    ranks: Ranks,
    abandon: Callable[[], bool],
) -> torch.Tensor | None:
    """Leave a batch's gradients, times `state.loss_scale`, in the parameters; its loss, or None if abandoned."""
    inputs, targets = batch
    if accumulation < 1 or len(inputs) < accumulation or len(inputs) % accumulation:
        raise ValueError(f"{len(inputs)} rows do not make {accumulation} equal micro-batches")
    size = len(inputs) // accumulation
    loss = torch.zeros((), device=plan.device)
    for micro in range(accumulation):
        if micro and abandon():
            return None
        rows = slice(micro * size, (micro + 1) * size)
        # Dropout must not depend on what happened before: a resumed run draws what an uninterrupted one would.
        torch.manual_seed(seed_of_micro_batch(seed, state.batch_index, micro, ranks.rank))
        with no_reduction_unless_last(loss_fn, last=micro == accumulation - 1):
            with plan.autocast():
                micro_loss = loss_fn(to_device(inputs[rows], plan.device), to_device(targets[rows], plan.device))
            micro_loss = micro_loss / accumulation
            (micro_loss * state.loss_scale).backward()
        loss += micro_loss.detach()
    return loss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a type for it, the other allocators only words."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in words)


def seed_of_micro_batch(seed: int, batch_index: int, micro: int, rank: int) -> int:
    """A 63-bit seed of its own for every micro-batch of every rank and run (multiplicative mixing by odd constants)."""
    place = micro + (rank << 32)
    mixed = seed * 0x9E3779B97F4A7C15 + batch_index * 0xC2B2AE3D27D4EB4F + place * 0x165667B19E3779F9
    return mixed & 0x7FFF_FFFF_FFFF_FFFF


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    # Contiguous: a copy from pinned memory overlaps with computation only then, and compiled code is made for strides.
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
