"""`llm-workbench bench save`: what saving a 124M model with its optimiser state costs the training, beside torch.save.

A real run is trained by `run_training`. Between stretches of plain steps it is told in turn to save, as a person would
tell it, and then, at a step's end, `torch.save` writes the same tensors in place, without syncing or reading them back.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm.config import RunConfig, with_overrides
from llm.events import Event, Saved, StepLogged
from llm.limits import usable_cores
from llm.run import Command, Run
from llm.training.checkpoint import HostMemory, TrainerState, copy_state
from llm.training.commands import CommandQueue
from llm.training.live import LiveWeights
from llm.training.run import run_training
from workbench.bench.decode import cpu_name
from workbench.bench.ui import spread

PLAIN_STEPS = 4  # before every save, for the speed without one

# GPT-2's shape, on steps of few tokens: what is measured is saving, and it does not depend on them.
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
    """Listens to the training and says what to save when; all times in seconds.

    Of ours, `lost` is by how much the steps until it was on the disk were slower than plain ones, and `total` how long
    that took; torch.save holds the step up for as long as it takes.
    """

    rounds: int
    place: Path
    commands: CommandQueue = field(default_factory=CommandQueue)
    plain: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    state: TrainerState = field(init=False)

    def __post_init__(self) -> None:
        self.turns = self.plan()
        self.wanted = next(self.turns)
        self.last = time.perf_counter()

    def plan(self) -> Iterator[str]:
        """What the step that begins is for."""
        yield "warm up"
        for _ in range(self.rounds):
            for kind in ("ours", "theirs"):
                yield from ["plain"] * PLAIN_STEPS
                yield kind
        yield "stop"

    def heard(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, Saved) and self.wanted == "ours":
            self.total.append(now - self.asked)
            self.lost.append(sum(self.during) - len(self.during) * statistics.median(self.plain))
            self.first.append(self.during[0] - statistics.median(self.plain))
            self.wanted = "finish the step"
        if isinstance(event, StepLogged):
            self.step_ended(now - self.last)
            self.last = time.perf_counter()

    def step_ended(self, seconds: float) -> None:
        if self.wanted == "ours":
            self.during.append(seconds)
            return
        if self.wanted == "plain":
            self.plain.append(seconds)
        self.wanted = next(self.turns)
        if self.wanted == "ours":
            self.during: list[float] = []
            self.asked = time.perf_counter()
            self.commands.inject(Command("save", "bench"))
        elif self.wanted == "theirs":
            self.save_with_torch()
            self.wanted = "after theirs"
        elif self.wanted == "stop":
            self.time_copies()
            self.commands.inject(Command("stop", "bench"))

    def save_with_torch(self) -> None:
        state = self.state
        began = time.perf_counter()
        torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_tensors()}, self.place)
        self.theirs.append(time.perf_counter() - began)

    def time_copies(self) -> None:
        """What a step waits for when ours saves: the copy, into memory that is there."""
        memory = HostMemory(self.state)
        for _ in range(max(5, self.rounds)):
            began = time.perf_counter()
            copy_state(self.state, memory)
            self.copies.append(time.perf_counter() - began)


def measure(home: Path, rounds: int, overrides: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """Train in `home`, saving in turns; every list of seconds as its median, least and most."""
    config = with_overrides(RunConfig(), [*FIELDS.items(), *overrides])
    run = Run.create(home, "bench-save", config)
    schedule = Schedule(rounds, home / "state.pt")

    def on_live(live: LiveWeights) -> None:
        schedule.state = live._state  # the very tensors that are trained: torch.save is given no copy of them

    run_training(run, home, commands=schedule.commands, on_event=schedule.heard, on_live=on_live)
    state = schedule.state
    return {
        "machine": {"device": cpu_name(), "cores": usable_cores(), "torch": torch.__version__},
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
    "copy_seconds": "a save stops training for (the copy)",
    "first_step_longer_seconds": "the step after it is longer by",
    "lost_seconds": "training loses in all, writing beside it",
    "until_on_disk_seconds": "until it is on the disk and read back",
    "torch_save_seconds": "torch.save in place stops training for",
}


def lines_of(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['parameters']:,} parameters with AdamW's state, {result['bytes'] / 1e9:.2f} GB; seconds"]
    for key, label in LABELS.items():
        seconds = result[key]
        lines.append(f"{label:<42} {seconds['median']:.3f} ({seconds['least']:.3f} to {seconds['most']:.3f})")
    return [*lines, "  ".join(f"{name}: {value}" for name, value in result["machine"].items())]
