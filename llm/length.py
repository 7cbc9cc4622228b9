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


def run_length(config: RunConfig, vocab_size: int, train_tokens: int, ranks: int = 1) -> Length:
    """The length that `config` asks for, on a split of `train_tokens`.

    Given as tokens, epochs (an epoch is `train_tokens` tokens, and may be fractional), tokens per parameter or FLOPs,
    it is rounded to the nearest whole step, and is at least one.
    """
    train = config.train
    model = resolve_model(config.model, vocab_size)
    seq_len = resolve_seq_len(train, config.model)
    accumulation = resolve_accumulation(train, config.model, ranks)
    rows = train.batch_size * accumulation * ranks
    if train.total_batch_tokens and train.total_batch_tokens != rows * seq_len:
        message = (
            f"{train.total_batch_tokens} tokens cannot be shared evenly by {ranks} processes of batch_size × seq_len"
        )
        raise ConfigError(
            [Problem("train.total_batch_tokens", f"{message} = {train.batch_size * seq_len}; change one")]
        )
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
