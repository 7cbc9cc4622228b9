"""Measure the memory and speed of a configuration in a few real training steps.

`python -m llm.training.preflight CONFIG.toml --home DIR` writes one JSON object per line: `Progress` events while it
prepares the data, then a `Preflight`, or {"type": "Problem", "message": …}. It runs in its own process, so that the
measured memory is that of training alone and the caller can end it at any moment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from llm.config import RunConfig, from_toml
from llm.data.batches.source import batch_source, epoch_tokens
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import prepare
from llm.device import Plan, make_plan
from llm.environment import configure_process
from llm.errors import UserError
from llm.events import Progress, to_line
from llm.generators import drain
from llm.training.batch_plan import BatchPlan, resolve_batch_plan
from llm.training.context import StepContext
from llm.training.distributed import Ranks
from llm.training.micro_batch import choose_micro_batch
from llm.training.objective import build_objective
from llm.training.setup import build_loss_fn, new_state, resolve_plan
from llm.training.step import StepResult, take_step

STEPS, WARM_UP = 5, 1
SAMPLE_SECONDS = 0.005  # between two samples of the memory


@dataclass(frozen=True)
class Preflight:
    """The measurements. `step_seconds` is the median. `training_bytes` is the peak growth of the process during
    training (on a GPU: the peak allocation there), and `peak_bytes` the peak of the process."""

    device: str
    precision: str
    threads: int
    steps: int
    step_seconds: float
    tokens_per_second: float
    flops_per_second: float
    training_bytes: int
    peak_bytes: int
    total_steps: int
    total_tokens: int


class Memory:
    """The peak resident memory of this process, in bytes, while `watch` is active."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.before = self.peak = self.resident()

    def resident(self) -> int:
        return int(self.process.memory_info().rss)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Sample the memory in a thread until the context ends."""
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                self.peak = max(self.peak, self.resident())

        watcher = threading.Thread(target=sample, name="watch memory", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self.peak = max(self.peak, self.resident())


def preflight(config: RunConfig, home: Path, steps: int = STEPS) -> Generator[Progress, None, Preflight]:
    """Prepare the data, build the model, and time `steps` steps after a warm-up. Only the data are saved. Raises
    `UserError` for errors that the user can correct."""
    dataset = yield from prepare(config, home)
    batch_plan = resolve_batch_plan(config, dataset.tokenizer.vocab_size, epoch_tokens(dataset, config))
    yield Progress(stage="Building the model", done=0, total=0)
    memory = Memory()
    with memory.watch():
        state = new_state(config, dataset.tokenizer.vocab_size)
        context = StepContext(config, state, make_plan(config.train), batch_plan)
        yield from choose_micro_batch(context)
        batch_plan = context.batch_plan
        plan = context.plan = resolve_plan(config, state, dataset, batch_plan, Ranks())
        objective = build_objective(state.model, config)
        shape = (batch_plan.micro_batch(), batch_plan.seq_len)
        loss_fn, _ = build_loss_fn(state, plan, shape, objective)
        batches = batch_source(
            dataset, config, rows=batch_plan.global_batch_size, seq_len=batch_plan.seq_len, start=0, cursor=None
        )
        seconds = []
        for index in range(WARM_UP + steps):
            yield Progress(stage="Measuring steps", done=index, total=WARM_UP + steps, unit="steps")
            began = time.perf_counter()
            result = take_step(context, batches.batch(index), loss_fn, num_targets=batches.num_targets(index))
            if not isinstance(result, StepResult):
                raise UserError("a step does not fit into memory; lower train.batch_size, or fit it to this machine.")
            float(result.loss)  # waits for the device
            seconds.append(time.perf_counter() - began)
    return summary(plan, batch_plan, dataset, seconds[WARM_UP:], memory)


def summary(plan: Plan, batch_plan: BatchPlan, dataset: Dataset, seconds: list[float], memory: Memory) -> Preflight:
    step_seconds = statistics.median(seconds)
    rate = batch_plan.tokens_per_step / step_seconds
    training_bytes = memory.peak - memory.before
    if plan.device.startswith("cuda"):
        training_bytes = int(torch.cuda.max_memory_allocated(plan.device))
    return Preflight(
        device=plan.device,
        precision=plan.precision,
        threads=plan.threads,
        steps=len(seconds),
        step_seconds=step_seconds,
        tokens_per_second=rate,
        flops_per_second=rate * batch_plan.flops_per_token,
        training_bytes=training_bytes,
        peak_bytes=memory.peak,
        total_steps=batch_plan.steps,
        total_tokens=batch_plan.steps * batch_plan.tokens_per_step,
    )


def report(record: bytes | dict[str, Any]) -> None:
    line = record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n"
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def main() -> int:
    """Write the events and the result to stdout, one JSON object per line."""
    parser = argparse.ArgumentParser(prog="python -m llm.training.preflight", description="a few real steps, measured")
    parser.add_argument("config", type=Path, help="a configuration (TOML)")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    try:
        steps = preflight(from_toml(options.config.read_text(encoding="utf-8")), options.home, options.steps)
        measured = drain(steps, lambda progress: report(to_line(progress)))
        report({"type": "Preflight", **asdict(measured)})
        return 0
    except UserError as error:
        report({"type": "Problem", "message": str(error)})
    except MemoryError:
        report({"type": "Problem", "message": "it ran out of memory; lower train.batch_size, or press f to fit it."})
    except RuntimeError as error:  # how torch says that memory ran out, among other things
        report({"type": "Problem", "message": (str(error).strip().splitlines() or ["RuntimeError"])[0]})
    return 1


if __name__ == "__main__":
    configure_process()
    sys.exit(main())
