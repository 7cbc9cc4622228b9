"""Measure the training speed of this machine in about a second, to choose the size of a preset."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from llm.config import RunConfig
from llm.config.fit import expected_vocab_size
from llm.config.sizes import MachineSpeed
from llm.device import make_plan
from llm.limits import cpu_quota, usable_cores
from llm.training.batch_plan import resolve_batch_plan
from llm.training.context import StepContext
from llm.training.length import random_batch, time_step
from llm.training.objective import build_objective
from llm.training.setup import new_state

MEASURED_SECONDS, MIN_STEPS = 0.8, 2
GPU_BATCHES = 16
"""Factor of the batch size on a GPU: with a small batch the time of kernel launches would be measured."""


def measure_machine(config: RunConfig) -> MachineSpeed:
    """The speed of this machine at steps of `config` on random tokens, on all its processors; the fastest of several
    steps counts.

    Raises UserError where the device is not available; RuntimeError or MemoryError where its memory is too small.
    """
    plan = replace(make_plan(config.train), compiled=False)
    vocab_size, cores = expected_vocab_size(config.tokenizer), plan.threads or usable_cores()
    batch_plan = resolve_batch_plan(config, vocab_size, 1)
    if plan.device != "cpu":
        batch_plan = replace(batch_plan, global_batch_size=GPU_BATCHES * batch_plan.global_batch_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        state = new_state(config, vocab_size)
        state.model.train()
        context = StepContext(config, state, plan, batch_plan)
        batch, loss_fn = random_batch(context), build_objective(state.model, config).loss_fn
        time_step(context, batch, loss_fn)
        wall: list[float] = []
        processor: list[float] = []
        while len(wall) < MIN_STEPS or sum(wall) < MEASURED_SECONDS:
            began = time.process_time()
            wall.append(time_step(context, batch, loss_fn))
            processor.append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    flops = batch_plan.flops_per_token * batch_plan.tokens_per_step
    measured = flops / min(wall)
    if plan.device != "cpu":
        return MachineSpeed(measured, measured)
    return MachineSpeed(measured, max(measured, flops * min(cores, cpu_quota() or cores) / min(processor)))
