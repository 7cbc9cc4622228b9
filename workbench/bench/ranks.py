"""`llm-workbench bench ranks`: the cost of several ranks, measured on the CPU of this machine with gloo.

memory: peak resident memory of a rank under FSDP2. speed: tokens/s of two ranks compared with one process with two
threads. host: overhead of the training loop per step on two ranks. recompute: memory and time of activation
recomputation. control: time and bytes of the control traffic between many ranks.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from llm.events import StepLogged
from llm.launch import LOG, Launch, training_command
from llm.run import Run
from workbench.bench import rank_program
from workbench.bench.report import Result, Stats, alternate, ratio_text, ratios

PARTS = ("memory", "speed", "host", "recompute", "control")
BASE = {  # nothing but training steps
    "tokenizer.kind": "byte",
    "data.size_mb": "1",
    "model.dropout": "0",
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.log_every": "1",
    "evaluate.every": "0",
    "evaluate.at_start": "false",
    "sample.every": "0",
    "checkpoint.every": "0",
}
GPT2_124M = BASE | {
    "model.vocab_size": "50304",
    "model.n_layer": "12",
    "model.d_model": "768",
    "model.n_head": "12",
    "model.context": "1024",
    "train.steps": "3",
    "train.seq_len": "64",
    "train.threads": "1",
}
LONG_STEPS = BASE | {  # about one second each on two cores
    "model.n_layer": "6",
    "model.d_model": "384",
    "model.n_head": "6",
    "model.context": "256",
    "train.steps": "6",
}
SHORT_STEPS = BASE | {
    "model.n_layer": "2",
    "model.d_model": "64",
    "model.n_head": "2",
    "model.context": "64",
    "train.batch_size": "2",
    "train.accumulation": "1",
    "train.steps": "400",
    "train.threads": "1",
}
GOALS = {2: 0.65, 4: 0.45}
"""The goal by number of ranks: the most memory that a rank may use, relative to a single process."""


def measure(home: Path, parts: Sequence[str], pairs: int) -> Iterator[tuple[str, Result]]:
    """Yield the name and the result of each part."""
    measures = {"memory": measure_memory, "speed": measure_speed, "host": measure_host}
    for part in parts:
        if part in measures:
            yield part, measures[part](home, pairs)
        elif part == "recompute":
            from workbench.bench.recompute import measure_recompute

            yield part, measure_recompute(pairs)
        else:
            from workbench.bench.control import measure_control

            yield part, measure_control()


def measure_memory(home: Path, pairs: int) -> Result:
    """Peak resident bytes of a rank when 1, 2 and 4 ranks train GPT-2 124M with AdamW and FSDP2; the largest rank
    counts."""
    peaks = {}
    for ranks in (1, 2, 4):
        fields = {"train.sharding": "fsdp", "train.batch_size": "1", "train.accumulation": str(4 // ranks)}
        run = create_run(home, f"memory-{ranks}", GPT2_124M | fields)
        peaks[ranks] = max(run_ranks(run, home, ranks, watch_memory=True).values())
    return {"peak_bytes": peaks, "shares": {ranks: peaks[ranks] / peaks[1] for ranks in GOALS}}


def measure_speed(home: Path, pairs: int) -> Result:
    """Tokens per second of one process with two threads and of two ranks with one thread each, on the same global
    batch."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for ranks in alternate((1, 2), pairs):
        fields = {"train.batch_size": str(8 // ranks), "train.accumulation": "1", "train.threads": str(2 // ranks)}
        run = create_run(home, f"speed-{ranks}-{len(speeds[ranks])}", LONG_STEPS | fields)
        run_ranks(run, home, ranks)
        speeds[ranks].append(tokens_per_second(run))
    results = {"one_process": speeds[1], "two_ranks": speeds[2], "ratio": ratios(speeds[2], speeds[1])}
    return {name: asdict(Stats.of(values)) for name, values in results.items()}


def measure_host(home: Path, pairs: int) -> Result:
    """Milliseconds per step of the training loop of two ranks, without the step itself."""
    wall, cpu = [], []
    for pair in range(pairs):
        run = create_run(home, f"host-{pair}", SHORT_STEPS)
        run_ranks(run, home, 2, program=rank_program.__name__)
        for line in (run.path / LOG).read_text().splitlines():
            if line.startswith(rank_program.LABEL):
                milliseconds = line.removeprefix(rank_program.LABEL).split()
                wall.append(float(milliseconds[0]))
                cpu.append(float(milliseconds[1]))
    return {"wall_ms": asdict(Stats.of(wall)), "processor_ms": asdict(Stats.of(cpu))}


def create_run(home: Path, name: str, fields: dict[str, str]) -> Run:
    return Run.create(home, name, with_overrides(RunConfig(), list(fields.items())))


def run_ranks(
    run: Run, home: Path, ranks: int, program: str = "llm.train", *, watch_memory: bool = False
) -> dict[int, int]:
    """Train `run` until it finishes. With `watch_memory`, which takes half a core, returns the peak resident bytes of
    each rank by process id. Raises UserError if training fails."""
    command = [program if word == "llm.train" else word for word in training_command(run, home, Launch(ranks), ())]
    peaks: dict[int, int] = {}
    with (run.path / LOG).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while watch_memory and process.poll() is None:
            for pid in [process.pid] if ranks == 1 else children(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
            time.sleep(0.02)
        status = process.wait()
    if status:
        raise UserError(f"the run of the benchmark failed; {run.path / LOG} says why.")
    return peaks


def children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def peak_bytes(pid: int) -> int:
    """Peak resident bytes of a process so far (proc(5), VmHWM); 0 after it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def tokens_per_second(run: Run) -> float:
    """The median of all steps but the first two."""
    first, _, *steps = [event for event in run.events() if isinstance(event, StepLogged)]
    tokens = first.tokens_seen // first.step
    return statistics.median(1000 * tokens / event.step_ms for event in steps)


def lines_of(part: str, result: Result) -> list[str]:
    """The printed result of one part."""
    if part == "memory":
        peaks, shares = result["peak_bytes"], result["shares"]
        return [f"one process  {peaks[1] / 1e9:.2f} GB"] + [
            f"{ranks} ranks      {peaks[ranks] / 1e9:.2f} GB each, {share:.2f} of one process (goal {GOALS[ranks]})"
            for ranks, share in shares.items()
        ]
    if part == "control":
        return [f"{name.replace('_', ' '):<28} {value}" for name, value in result.items()]
    return [f"{name.replace('_', ' '):<28} {show(value)}" for name, value in result.items()]


def show(value: Any) -> str:
    return ratio_text(value) if isinstance(value, dict) else f"{value:.3g}"
