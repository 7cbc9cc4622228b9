"""The speed of fine-tuning on packed conversations, compared with pre-training on text of the same shape.

    python tests/packed_speed.py [--precision bf16] [--threads 1] [--pairs 9]

Steps of both alternate, in pairs, and are measured in CPU time, which other programs disturb little. A step is forward,
backward and update; a token is a position of a row. The conversations are random, of 20 to 60 tokens, of which the last
40 % are learned.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from llm.config import RunConfig, resolve_model, with_overrides
from llm.device import Plan
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from llm.training.batch_plan import BatchPlan
from llm.training.context import StepContext
from llm.training.objective import build_objective
from llm.training.state import TrainerState
from llm.training.step import StepResult, take_step

VOCAB_SIZE = 2048


def packed_rows(rows: int, seq_len: int) -> tuple[np.ndarray, ...]:
    """Inputs, targets and positions of full rows of random conversations."""
    chance = np.random.default_rng(1)
    tokens = chance.integers(0, VOCAB_SIZE, (rows, seq_len + 1))
    inputs, targets, positions = tokens[:, :-1], tokens[:, 1:].copy(), np.zeros((rows, seq_len), np.int64)
    for row in range(rows):
        start = 0
        while start < seq_len:
            stop = min(seq_len, start + int(chance.integers(20, 61)))
            positions[row, start:stop] = np.arange(stop - start)
            targets[row, start : start + (stop - start) * 6 // 10] = -1
            start = stop
    return inputs, targets, positions


def stepper(config: RunConfig, plan: Plan, batch: tuple[np.ndarray, ...]) -> Callable[[], float]:
    """A function that takes a step and returns its CPU seconds."""
    model = Transformer(resolve_model(config.model, VOCAB_SIZE))
    model.init_weights(torch.Generator().manual_seed(1))
    state = TrainerState(model, build_optimizer(model, config))
    rows, seq_len = batch[0].shape
    context = StepContext(config, state, plan, BatchPlan(10**6, rows, seq_len, 1, 0.0, 0))
    loss_fn = build_objective(model, config).loss_fn
    num_targets = int((batch[1] != -1).sum())

    def step() -> float:
        began = time.process_time()
        result = take_step(context, batch, loss_fn, num_targets=num_targets)
        assert isinstance(result, StepResult) and np.isfinite(result.loss)
        return time.process_time() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan("cpu", options.precision, options.threads, False)
    shape = [("model.n_layer", "4"), ("model.d_model", "128"), ("model.n_head", "4"), ("model.context", "256")]
    base = with_overrides(RunConfig(), shape)
    inputs, targets, positions = packed_rows(8, 256)
    text = stepper(base, plan, (inputs, inputs[:, ::-1].copy()))
    sft = stepper(with_overrides(base, [("tune.stage", "sft")]), plan, (inputs, targets, positions))
    control = stepper(base, plan, (inputs, inputs[:, ::-1].copy()))
    for step in (text, sft, control):
        step()
    seconds = [(text(), sft(), control()) for _ in range(options.pairs)]
    for name, place in (("fine-tuning, packed", 1), ("text again (control)", 2)):
        ratios = sorted(row[0] / row[place] for row in seconds)
        speed = inputs.size / statistics.median(row[place] for row in seconds)
        print(
            f"{name}: {speed:,.0f} tokens per CPU second, {statistics.median(ratios):.3f} times pre-training "
            f"({ratios[0]:.3f}–{ratios[-1]:.3f}, {options.pairs} pairs)"
        )


if __name__ == "__main__":
    main()
