"""One optimiser step: micro-batches, backward, clipping, update. No value is read off the device here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from llm.checkpoint import TrainerState
from llm.device import Plan
from llm.distributed import LossOf, Ranks, without_reduction
from llm.optim import clip_grad_norm

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class StepResult:
    """What a step measured, still on the device: scalars `loss` (nats per token) and `grad_norm` (before clipping),
    and whether both were finite (`ok`), without which nothing moved."""

    step: int
    tokens_seen: int
    lr: float
    loss: torch.Tensor
    grad_norm: torch.Tensor
    ok: torch.Tensor


def take_step(
    state: TrainerState,
    batch: Rows,
    plan: Plan,
    *,
    loss_of: LossOf,
    accumulation: int,
    clip: float,
    lr: float,
    lr_scale: float,
    seed: int,
    ranks: Ranks,
    abandon: Callable[[], bool],
) -> StepResult | None:
    """Train on one batch, (rows, seq_len) inputs and targets, in `accumulation` equal micro-batches.

    Of several ranks each passes its own rows; gradients are averaged over ranks with the last micro-batch.

    `lr_scale` multiplies every group's rate; `lr` is only reported. Returns None when `abandon` said so between
    micro-batches: the partial gradients are discarded and the state is that of the last completed step.
    """
    inputs, targets = batch
    size = len(inputs) // accumulation
    loss = torch.zeros((), device=plan.device)
    for micro in range(accumulation):
        if micro and abandon():
            state.optimizer.zero_grad()
            return None
        rows = slice(micro * size, (micro + 1) * size)
        # Dropout must not depend on what happened before: a resumed run draws what an uninterrupted one would.
        torch.manual_seed(micro_batch_seed(seed, state.batch_index, micro, ranks.rank))
        with without_reduction(loss_of, last=micro == accumulation - 1):
            with plan.autocast():
                micro_loss = loss_of(to_device(inputs[rows], plan.device), to_device(targets[rows], plan.device))
            micro_loss = micro_loss / accumulation
            (micro_loss * state.loss_scale).backward()
        loss += micro_loss.detach()
    loss = ranks.mean(loss)
    if state.loss_scale != 1.0:
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= state.loss_scale
    grad_norm = clip_grad_norm(state.model.parameters(), clip)
    ok = torch.isfinite(loss) & torch.isfinite(grad_norm)
    with state.lock:
        state.optimizer.step(lr_scale, ok)
    state.optimizer.zero_grad()
    state.step += 1
    state.batch_index += 1
    state.tokens_seen += inputs.size * ranks.count
    return StepResult(state.step, state.tokens_seen, lr, loss, grad_norm, ok)


def micro_batch_seed(seed: int, batch_index: int, micro: int, rank: int) -> int:
    """A 63-bit seed of its own for every micro-batch of every rank and run (multiplicative mixing by odd constants)."""
    place = micro + (rank << 32)
    mixed = seed * 0x9E3779B97F4A7C15 + batch_index * 0xC2B2AE3D27D4EB4F + place * 0x165667B19E3779F9
    return mixed & 0x7FFF_FFFF_FFFF_FFFF


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
