"""The learning rate, and Muon's momentum, as pure functions of the step."""

from __future__ import annotations

import math

from llm.config.schema import RunConfig


def lr_multiplier_at(step: int, total_steps: int, config: RunConfig) -> float:
    """Factor on the learning rate of every group at step `step` (counted from 0) out of `total_steps`."""
    # In another order of operations, a run resumed with this version would differ from its first part in the last bit.
    return lr_at(step, total_steps, config) / config.train.lr


def lr_at(step: int, total_steps: int, config: RunConfig) -> float:
    """Scheduled value of `train.lr` at step `step` (counted from 0) out of `total_steps`, times `train.lr_multiplier`.

    A linear warm-up over W steps reaches `train.lr`. The rate stays there until the decay starts, at the later of W and
    `hold_steps` (or the fraction `hold_until`), and falls to `lr_min` at `decay_steps` (or the fraction `decay_until`).
    Kind "sqrt" decays as train.lr/√(t + 1), t steps after the decay started, but not below `lr_min`; "constant" does
    not decay.

    `warmup_from` sets how steps are counted. In the warm-up, "zero" gives step s the fraction s/W of `train.lr`, the
    others (s + 1)/W. In the decay, "zero" and "next" count from 0, so that a decay over the whole run ends one step
    above `lr_min`; "first" counts from 1 and ends exactly at `lr_min`.
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
    progress = step / optim.momentum_warmup_steps
    return (1 - progress) * optim.momentum_start + progress * optim.momentum


def decay_factor(kind: str, progress: float) -> float:
    """1 at `progress` 0, 0 at `progress` 1: half a cosine (Loshchilov & Hutter 2017), or a line."""
    return (1 + math.cos(math.pi * progress)) / 2 if kind == "cosine" else 1 - progress
