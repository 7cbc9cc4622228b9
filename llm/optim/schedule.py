"""The learning rate, and Muon's momentum, as pure functions of the step."""

from __future__ import annotations

import math

from llm.config.schema import RunConfig


def lr_at(step: int, total_steps: int, config: RunConfig) -> float:
    """Learning rate of step `step` (counted from 0) out of `total_steps`, without the live multiplier.

    Linear warm-up over W steps, then `train.lr` until the fall begins, at the later of W and `hold_steps` (or the share
    `hold_until`); from there to `lr_min`, reached at `decay_steps` (or the share `decay_until`) and kept.

    `warmup_from` sets how steps are counted: "zero" and "next" fall by the step from 0, so that a fall over the whole
    run ends one notch above `lr_min`; "first" counts from 1, and ends exactly there. "sqrt" is train.lr/√(t + 1), t
    steps after the fall began, and never under `lr_min`.
    """
    schedule, peak = config.schedule, config.train.lr
    warmup = schedule.warmup_steps or round(schedule.warmup_ratio * total_steps)
    position = step + (schedule.warmup_from == "first")
    if position < warmup:
        return peak * (position + (schedule.warmup_from == "next")) / warmup
    start = max(warmup, schedule.hold_steps or round(schedule.hold_until * total_steps))
    end = schedule.decay_steps or round(schedule.decay_until * total_steps)
    if schedule.kind == "constant" or position < start:
        return peak
    if schedule.kind == "sqrt":
        return schedule.lr_min if step >= end else max(schedule.lr_min, peak / math.sqrt(max(0, step - start) + 1))
    if position >= end:
        return schedule.lr_min
    return schedule.lr_min + (peak - schedule.lr_min) * remaining(schedule.kind, (position - start) / (end - start))


def momentum_at(step: int, config: RunConfig) -> float:
    """Muon's momentum at step `step` (counted from 0): a line from `momentum_start` that reaches `momentum` at
    `momentum_warmup_steps` (nanochat's `get_muon_momentum`)."""
    optim = config.optim
    if step >= optim.momentum_warmup_steps:
        return optim.momentum
    share = step / optim.momentum_warmup_steps
    return (1 - share) * optim.momentum_start + share * optim.momentum


def remaining(kind: str, progress: float) -> float:
    """Share of the fall still to come at `progress` 0 … 1: half a cosine (Loshchilov & Hutter 2017), or a line."""
    return (1 + math.cos(math.pi * progress)) / 2 if kind == "cosine" else 1 - progress
