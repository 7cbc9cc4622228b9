"""`llm-workbench bench ranks`: what several ranks cost, measured on the processors of this machine with gloo.

memory: the largest resident memory of a rank under FSDP2. speed: tokens/s of two ranks and of one process with two
threads, in turns. host: what the loop takes per step on two ranks, besides the step itself. recompute: memory and time
of recomputed activations. control: decisions and measurements sent between many ranks.
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
from workbench.bench.report import Result, Speed, ratio_text

PARTS = ("memory", "speed", "host", "recompute", "control")
PLAIN = {
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
GPT2_124M = PLAIN | {
    "model.vocab_size": "50304",
    "model.n_layer": "12",
    "model.d_model": "768",
    "model.n_head": "12",
    "model.context": "1024",
    "train.steps": "3",
    "train.seq_len": "64",
    "train.threads": "1",
}
SECOND_STEPS = PLAIN | {  # about a second a step on two cores
    "model.n_layer": "6",
    "model.d_model": "384",
    "model.n_head": "6",
    "model.context": "256",
    "train.steps": "6",
}
SHORT_STEPS = PLAIN | {
    "model.n_layer": "2",
    "model.d_model": "64",
    "model.n_head": "2",
    "model.context": "64",
    "train.batch_size": "2",
    "train.accumulation": "1",
    "train.steps": "400",
    "train.threads": "1",
}
LIMITS = {2: 0.65, 4: 0.45}
"""The largest share of one process's memory that a rank may take, by number of ranks."""


def measure(home: Path, parts: Sequence[str], pairs: int) -> Iterator[tuple[str, Result]]:
    """The name and the result of each part."""
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
    """Peak resident bytes of the largest of 1, 2 and 4 ranks that train GPT-2 124M with AdamW and FSDP2."""
    peaks = {}
    for ranks in (1, 2, 4):
        fields = {"train.sharding": "fsdp", "train.batch_size": "1", "train.accumulation": str(4 // ranks)}
        run = create(home, f"memory-{ranks}", GPT2_124M | fields)
        peaks[ranks] = max(run_ranks(run, home, ranks, watches_memory=True).values())
    return {"peak_bytes": peaks, "shares": {ranks: peaks[ranks] / peaks[1] for ranks in LIMITS}}


def measure_speed(home: Path, pairs: int) -> Result:
    """Tokens per second of one process with two threads and of two ranks with one each, on the same global batch."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(pairs):
        for ranks in (1, 2) if pair % 2 == 0 else (2, 1):
            fields = {"train.batch_size": str(8 // ranks), "train.accumulation": "1", "train.threads": str(2 // ranks)}
            run = create(home, f"speed-{ranks}-{pair}", SECOND_STEPS | fields)
            run_ranks(run, home, ranks)
            speeds[ranks].append(tokens_per_second(run))
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    found = {"one_process": speeds[1], "two_ranks": speeds[2], "ratio": ratios}
    return {name: asdict(Speed.of(values)) for name, values in found.items()}


def measure_host(home: Path, pairs: int) -> Result:
    """Milliseconds per step that the loop of each of two ranks takes besides the step itself, as it says on its
    standard output (`workbench.bench.rank_program`)."""
    wall, processor = [], []
    for pair in range(pairs):
        run = create(home, f"host-{pair}", SHORT_STEPS)
        run_ranks(run, home, 2, program="workbench.bench.rank_program")
        for line in (run.path / LOG).read_text().splitlines():
            if line.startswith("besides the step "):
                milliseconds = line.split()[3:5]
                wall.append(float(milliseconds[0]))
                processor.append(float(milliseconds[1]))
    return {"wall_ms": asdict(Speed.of(wall)), "processor_ms": asdict(Speed.of(processor))}


def create(home: Path, name: str, fields: dict[str, str]) -> Run:
    return Run.create(home, name, with_overrides(RunConfig(), list(fields.items())))


def run_ranks(
    run: Run, home: Path, ranks: int, program: str = "llm.train", *, watches_memory: bool = False
) -> dict[int, int]:
    """Train `run` until it finishes; with `watches_memory`, which takes half a core, the peak resident bytes of each
    rank's process. UserError where it fails."""
    command = [program if word == "llm.train" else word for word in training_command(run, home, Launch(ranks), ())]
    peaks: dict[int, int] = {}
    with (run.path / LOG).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while watches_memory and process.poll() is None:
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
    """The largest resident size of a process so far, from /proc (proc(5), VmHWM); 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def tokens_per_second(run: Run) -> float:
    """The median over steps, without the first two."""
    steps = [event for event in run.events() if isinstance(event, StepLogged)][2:]
    return statistics.median(1000 * run_tokens(run) / event.step_ms for event in steps)


def run_tokens(run: Run) -> int:
    first = next(event for event in run.events() if isinstance(event, StepLogged))
    return first.tokens_seen // first.step


def lines_of(part: str, result: Result) -> list[str]:
    """A result as text."""
    if part == "memory":
        peaks, shares = result["peak_bytes"], result["shares"]
        return [f"one process  {peaks[1] / 1e9:.2f} GB"] + [
            f"{ranks} ranks      {peaks[ranks] / 1e9:.2f} GB, {share:.2f} of it (at most {LIMITS[ranks]})"
            for ranks, share in shares.items()
        ]
    if part == "control":
        return [f"{name.replace('_', ' '):<28} {value}" for name, value in result.items()]
    return [f"{name.replace('_', ' '):<28} {show(value)}" for name, value in result.items()]


def show(value: Any) -> str:
    return ratio_text(value) if isinstance(value, dict) else f"{value:.3g}"
