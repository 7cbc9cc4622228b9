"""How many steps a run takes and how many tokens each step holds, resolved from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import RunConfig, resolve_accumulation, resolve_model, resolve_seq_len, smallest_micro_batch
from llm.errors import ConfigError, Problem
from llm.model.counts import flops_per_token, parameters

TYPICAL_FLOPS = 5e10  # FLOP/s of training on two CPU cores; used until a machine has been measured
TRAINING_TIME_SHARE = 0.85
"""The part of train.minutes that is for steps. The rest is for evaluations, samples and checkpoints, and for processors
that become slower after the measurement (docs/performance.md)."""


@dataclass(frozen=True)
class BatchPlan:
    """How many optimizer steps a run takes, and how a step's sequences are divided into micro-batches.

    `global_batch_size` is sequences of `seq_len` tokens per step over all ranks; each rank takes its share in
    `grad_accum_steps` micro-batches.
    """

    steps: int
    global_batch_size: int
    seq_len: int
    grad_accum_steps: int
    flops_per_token: float
    parameters: int

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.seq_len

    def micro_batch(self, world_size: int = 1) -> int:
        """Sequences per micro-batch of each rank."""
        return self.global_batch_size // world_size // self.grad_accum_steps


def resolve_batch_plan(
    config: RunConfig,
    vocab_size: int,
    train_tokens: int,
    world_size: int = 1,
    *,
    global_batch_size: int = 0,
    micro_batch: int = 0,
    flops_per_second: float = 0.0,
) -> BatchPlan:
    """The batch plan of `config` for a training split of `train_tokens` tokens.

    A length given as tokens, epochs (of `train_tokens` tokens; may be fractional), tokens per parameter, FLOPs or
    minutes is rounded to the nearest number of steps, and is at least one step. Minutes are those of a machine of
    `flops_per_second` (0: `TYPICAL_FLOPS`), of which TRAINING_TIME_SHARE is for steps. `global_batch_size` and
    `micro_batch` are those of `resolve_batch_size`, which raises ConfigError.
    """
    train = config.train
    model = resolve_model(config.model, vocab_size)
    seq_len = resolve_seq_len(train, config.model)
    global_batch_size, grad_accum_steps = resolve_batch_size(
        config, world_size, global_batch_size=global_batch_size, micro_batch=micro_batch
    )
    count = parameters(model)
    flops = flops_per_token(model, seq_len, config.tune)
    tokens = (
        train.tokens
        or train.epochs * train_tokens
        or train.tokens_per_parameter * count
        or train.flops / flops
        or train.minutes * 60 * TRAINING_TIME_SHARE * (flops_per_second or TYPICAL_FLOPS) / flops
    )
    steps = train.steps or max(1, round(tokens / (global_batch_size * seq_len)))
    return BatchPlan(steps, global_batch_size, seq_len, grad_accum_steps, flops, count)


def resolve_batch_size(
    config: RunConfig, world_size: int, *, global_batch_size: int = 0, micro_batch: int = 0
) -> tuple[int, int]:
    """Sequences per step over all ranks, and the micro-batches per rank in which they are computed.

    A resumed run passes the `global_batch_size` it started with, which another number of ranks must divide, and
    `micro_batch`, the sequences per micro-batch that were chosen, or that fitted after `train.batch_size` ran out of
    memory; 0 means "as configured".
    Raises ConfigError where the ranks cannot divide the sequences evenly.
    """
    train, seq_len = config.train, resolve_seq_len(config.train, config.model)
    configured = smallest_micro_batch(train) * resolve_accumulation(train, config.model, world_size) * world_size
    if train.total_batch_tokens and train.total_batch_tokens != configured * seq_len:
        raise ConfigError(
            [
                Problem(
                    "train.total_batch_tokens",
                    f"{train.total_batch_tokens} tokens cannot be divided evenly among {world_size} processes of "
                    f"batch_size × seq_len = {smallest_micro_batch(train) * seq_len}; {nearest(config, world_size)}",
                )
            ]
        )
    if not global_batch_size or train.total_batch_tokens:
        global_batch_size = configured
    size = micro_batch or smallest_micro_batch(train)
    grad_accum_steps, rest = divmod(global_batch_size, size * world_size)
    if rest:
        message = (
            f"the {global_batch_size} sequences per step this run started with cannot be divided evenly among "
            f"{world_size} processes in micro-batches of {size}; use a number of processes that divides "
            f"{global_batch_size // size}{such_as(nearest_divisors(global_batch_size // size, world_size))}"
        )
        raise ConfigError([Problem("train.batch_size", message)])
    return global_batch_size, grad_accum_steps


def nearest(config: RunConfig, world_size: int) -> str:
    """The nearest settings with which `train.total_batch_tokens` can be divided among processes."""
    train = config.train
    part = smallest_micro_batch(train) * resolve_seq_len(train, config.model)
    steps = max(1, round(train.total_batch_tokens / (part * world_size)))
    advice = f"set train.total_batch_tokens to {steps * part * world_size}"
    parts, rest = divmod(train.total_batch_tokens, part)
    if rest:
        return advice
    return f"{advice}, or use a number of processes that divides {parts}{such_as(nearest_divisors(parts, world_size))}"


def nearest_divisors(number: int, target: int) -> list[int]:
    """The largest divisor of `number` up to `target`, and the smallest from `target` on."""
    smaller = next((value for value in range(min(target, number), 0, -1) if number % value == 0), 0)
    larger = next((value for value in range(max(1, target), number + 1) if number % value == 0), 0)
    return [value for value in (smaller, larger) if value]


def such_as(numbers: list[int]) -> str:
    return f" ({' or '.join(map(str, numbers))})" if numbers else ""
