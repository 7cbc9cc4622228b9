"""`llm-workbench bench save`: cost of saving a 124M model with its optimizer state, compared with torch.save.

Trains a run with `run_training`. After some plain steps it sends the command `save`; after some more it calls
`torch.save` on the same tensors, which neither syncs nor verifies the file.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llm.config import RunConfig, with_overrides
from llm.events import Event, Saved, StepLogged
from llm.run import Command, Run
from llm.training.commands import CommandQueue
from llm.training.live import LiveWeights
from llm.training.run import run_training
from llm.training.state import HostMemory, TrainerState, copy_state
from workbench.bench.report import Result, device_name, machine, spread

PLAIN_STEPS = 4  # before each save; their median is the baseline

# GPT-2's shape. The cost of saving does not depend on the number of tokens per step, so they are few.
FIELDS = {
    "tokenizer.kind": "byte",
    "data.size_mb": "1",
    "model.vocab_size": "50304",
    "model.n_layer": "12",
    "model.d_model": "768",
    "model.n_head": "12",
    "model.context": "1024",
    "train.steps": "100000",
    "train.batch_size": "1",
    "train.seq_len": "64",
    "train.log_every": "1",
    "evaluate.every": "0",
    "evaluate.at_start": "false",
    "sample.every": "0",
    "checkpoint.every": "0",
    "checkpoint.keep": "1",
}


@dataclass
class Schedule:
    """Receives the events of the training and decides when to save. All times are in seconds.

    For our save, `total` is the time until it is on disk, `lost` the extra time of all steps meanwhile, and `first` the
    extra time of the first one. `theirs` is the time of torch.save, which blocks training.
    """

    rounds: int
    path: Path
    commands: CommandQueue = field(default_factory=CommandQueue)
    plain: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    state: TrainerState = field(init=False)

    def __post_init__(self) -> None:
        self.phases = self.plan()
        self.phase = next(self.phases)
        self.last = time.perf_counter()

    def plan(self) -> Iterator[str]:
        """The phases of the measurement. "save" takes several steps, each other phase one."""
        yield "warm up"
        for _ in range(self.rounds):
            for kind in ("save", "torch.save"):
                yield from ["plain"] * PLAIN_STEPS
                yield kind
        yield "stop"

    def on_event(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, Saved) and self.phase == "save":
            self.total.append(now - self.requested)
            self.lost.append(sum(self.during) - len(self.during) * statistics.median(self.plain))
            self.first.append(self.during[0] - statistics.median(self.plain))
            self.phase = "after save"
        if isinstance(event, StepLogged):
            self.end_step(now - self.last)
            self.last = time.perf_counter()

    def end_step(self, seconds: float) -> None:
        if self.phase == "save":
            self.during.append(seconds)
            return
        if self.phase == "plain":
            self.plain.append(seconds)
        self.phase = next(self.phases)
        if self.phase == "save":
            self.during: list[float] = []  # seconds of the steps during the save
            self.requested = time.perf_counter()
            self.commands.inject(Command("save", "bench"))
        elif self.phase == "torch.save":
            self.save_with_torch()
        elif self.phase == "stop":
            self.time_copies()
            self.commands.inject(Command("stop", "bench"))

    def save_with_torch(self) -> None:
        state = self.state
        began = time.perf_counter()
        torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_tensors()}, self.path)
        self.theirs.append(time.perf_counter() - began)

    def time_copies(self) -> None:
        """Measure the part of our save that blocks a step: the copy into allocated memory."""
        memory = HostMemory(self.state)
        for _ in range(max(5, self.rounds)):
            began = time.perf_counter()
            copy_state(self.state, memory)
            self.copies.append(time.perf_counter() - began)


def measure(home: Path, rounds: int, overrides: tuple[tuple[str, str], ...] = ()) -> Result:
    """Train in `home` with alternating saves. The result has the median, least and most seconds of each cost."""
    config = with_overrides(RunConfig(), [*FIELDS.items(), *overrides])
    run = Run.create(home, "bench-save", config)
    schedule = Schedule(rounds, home / "state.pt")

    def on_live(live: LiveWeights) -> None:
        schedule.state = live.state  # the trained tensors themselves: torch.save gets no copy

    run_training(run, home, commands=schedule.commands, on_event=schedule.on_event, on_live=on_live)
    state = schedule.state
    return {
        "machine": machine("torch", device=device_name("cpu")),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "bytes": run.checkpoint().size_bytes,
        "plain_step_seconds": spread(schedule.plain),
        "copy_seconds": spread(schedule.copies),
        "first_step_longer_seconds": spread(schedule.first),
        "lost_seconds": spread(schedule.lost),
        "until_on_disk_seconds": spread(schedule.total),
        "torch_save_seconds": spread(schedule.theirs),
    }


LABELS = {
    "plain_step_seconds": "a step without a save",
    "copy_seconds": "a save blocks training for (copy)",
    "first_step_longer_seconds": "the next step is longer by",
    "lost_seconds": "total training time lost",
    "until_on_disk_seconds": "until written and verified",
    "torch_save_seconds": "torch.save blocks training for",
}


def lines_of(result: Result) -> list[str]:
    lines = [f"{result['parameters']:,} parameters and AdamW state, {result['bytes'] / 1e9:.2f} GB; seconds"]
    for key, label in LABELS.items():
        seconds = result[key]
        lines.append(f"{label:<42} {seconds['median']:.3f} ({seconds['least']:.3f} to {seconds['most']:.3f})")
    return [*lines, "  ".join(f"{name}: {value}" for name, value in result["machine"].items())]
