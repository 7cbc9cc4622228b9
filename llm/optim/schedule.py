"""The learning rate, and Muon's momentum, as pure functions of the step."""

from __future__ import annotations

import math

from llm.config.schema import RunConfig


def lr_multiplier_at(step: int, total_steps: int, config: RunConfig) -> float:
    """Factor that step `step` (counted from 0) out of `total_steps` applies to the learning rate of every group."""
    # Not simplified: with another order of operations a resumed run differs in the last bit from its first part.
    return lr_at(step, total_steps, config) / config.train.lr


def lr_at(step: int, total_steps: int, config: RunConfig) -> float:
    """Scheduled value of `train.lr` at step `step` (counted from 0) out of `total_steps`, times `train.lr_multiplier`.

    A linear warm-up over W steps reaches `train.lr`. The rate stays there until the decay starts, at the later of W and
    `hold_steps` (or the fraction `hold_until`), and falls to `lr_min` at `decay_steps` (or the fraction `decay_until`).

    `warmup_from` sets how steps are counted: "zero" and "next" count the decay from 0, so that a decay over the whole
    run ends one step above `lr_min`; "first" counts from 1 and ends exactly at `lr_min`. "sqrt" is train.lr/√(t + 1),
    t steps after the decay started, and at least `lr_min`.
    """
    return unscaled_lr(step, total_steps, config) * config.train.lr_multiplier


def unscaled_lr(step: int, total_steps: int, config: RunConfig) -> float:
    """`lr_at` without `train.lr_multiplier`."""
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
    return schedule.lr_min + (peak - schedule.lr_min) * decay_factor(schedule.kind, (position - start) / (end - start))


def momentum_at(step: int, config: RunConfig) -> float:
    """Muon's momentum at step `step` (counted from 0): linear from `momentum_start` to `momentum` over
    `momentum_warmup_steps` (nanochat's `get_muon_momentum`)."""
    optim = config.optim
    if step >= optim.momentum_warmup_steps:
        return optim.momentum
    share = step / optim.momentum_warmup_steps
    return (1 - share) * optim.momentum_start + share * optim.momentum


def decay_factor(kind: str, progress: float) -> float:
    """1 at `progress` 0, 0 at `progress` 1: half a cosine (Loshchilov & Hutter 2017), or a line."""
    return (1 + math.cos(math.pi * progress)) / 2 if kind == "cosine" else 1 - progress
