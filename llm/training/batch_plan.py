"""How long a run is and how much goes into a step, worked out once from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import RunConfig, resolve_accumulation, resolve_model, resolve_seq_len
from llm.errors import ConfigError, Problem
from llm.model.counts import flops_per_token, parameters


@dataclass(frozen=True)
class Length:
    """`steps` optimiser steps of `rows` sequences of `seq_len` tokens, all ranks together; on each rank in
    `accumulation` micro-batches."""

    steps: int
    rows: int
    seq_len: int
    accumulation: int
    flops_per_token: float
    parameters: int

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.seq_len


def run_length(
    config: RunConfig, vocab_size: int, train_tokens: int, ranks: int = 1, *, rows: int = 0, micro_batch: int = 0
) -> Length:
    """The length that `config` asks for, on a split of `train_tokens`; `rows` and `micro_batch` as in `shared_rows`.

    Given as tokens, epochs (an epoch is `train_tokens` tokens, and may be fractional), tokens per parameter or FLOPs,
    it is rounded to the nearest whole step, and is at least one.
    """
    train = config.train
    model = resolve_model(config.model, vocab_size)
    seq_len = resolve_seq_len(train, config.model)
    rows, accumulation = shared_rows(config, ranks, rows=rows, micro_batch=micro_batch)
    count = parameters(model)
    flops = flops_per_token(model, seq_len)
    tokens = (
        train.tokens
        or train.epochs * train_tokens
        or train.tokens_per_parameter * count
        or (train.flops / flops if train.flops else 0)
    )
    steps = train.steps or max(1, round(tokens / (rows * seq_len)))
    return Length(steps, rows, seq_len, accumulation, flops, count)


def shared_rows(config: RunConfig, ranks: int, *, rows: int = 0, micro_batch: int = 0) -> tuple[int, int]:
    """Sequences per step, all ranks together, and the micro-batches in which each rank takes its share of them.

    `rows` is how many a run began with, whatever the number of ranks then, and `micro_batch` its sequences per
    micro-batch where `train.batch_size` did not fit in memory; 0 is as configured. ConfigError where they cannot be
    shared evenly.
    """
    train, seq_len = config.train, resolve_seq_len(config.train, config.model)
    configured = train.batch_size * resolve_accumulation(train, config.model, ranks) * ranks
    if train.total_batch_tokens and train.total_batch_tokens != configured * seq_len:
        message = (
            f"{train.total_batch_tokens} tokens cannot be shared evenly by {ranks} processes of batch_size × seq_len"
        )
        raise ConfigError(
            [Problem("train.total_batch_tokens", f"{message} = {train.batch_size * seq_len}; change one")]
        )
    if not rows or train.total_batch_tokens:
        rows = configured
    size = micro_batch or train.batch_size
    accumulation, left = divmod(rows, size * ranks)
    if left:
        message = (
            f"the {rows} sequences of a step, as the run began, cannot be shared evenly by {ranks} processes in "
            f"micro-batches of {size}; take a number of processes that divides {rows // size}"
        )
        raise ConfigError([Problem("train.batch_size", message)])
    return rows, accumulation
