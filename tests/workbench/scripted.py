"""Stand-ins for processes: a trainer that follows a script, and a preflight that never ends.

The trainer writes events, obeys commands and holds the lock of a run, with no model.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.config import RunConfig, from_mapping, get_value, with_overrides
from llm.errors import UserError
from llm.events import (
    Evaluated,
    Event,
    Finished,
    KnobSet,
    Paused,
    Progress,
    Resumed,
    Sampled,
    Saved,
    Started,
    StepLogged,
)
from llm.run import EventLog, Run
from llm.training.commands import CommandQueue
from workbench.train.service import Overrides

TOTAL = 600


def loss_at(step: int) -> float:
    """A curve that falls as losses do, with a ripple instead of noise."""
    return 1.4 + 6.0 * math.exp(-step / 90) + 0.08 * math.sin(step * 1.7)


def step_event(step: int) -> StepLogged:
    return StepLogged(
        step=step,
        elapsed=step * 0.05,
        tokens_seen=step * 2048,
        loss=loss_at(step),
        lr=3e-3 * min(1.0, step / 60) * (1 - step / TOTAL / 1.1),
        lr_multiplier=1.0,
        grad_norm=0.6 + 2.0 * math.exp(-step / 40) + 0.2 * math.sin(step),
        step_ms=50.0,
        tokens_per_second=40_960 + 900 * math.sin(step / 9),
        total_flops=step * 1e10,
    )


def started_event(step: int = 0) -> Started:
    return Started(
        step=step,
        total_steps=TOTAL,
        parameters=1_279_104,
        tokens_per_step=2048,
        device="cpu",
        precision="bf16",
        threads=1,
        compiled=False,
        pid=1,
        host="here",
    )


def periodic_events(step: int) -> list[Event]:
    """What happens besides stepping, every hundred steps."""
    if step % 100:
        return []
    loss = loss_at(step) + 0.12
    return [
        Evaluated(
            step=step,
            elapsed=step * 0.05,
            validation_loss=loss,
            perplexity=math.exp(loss),
            bits_per_byte=loss / math.log(2) / 4,
            tokens=9999,
            best=True,
        ),
        Sampled(step=step, prompt="Once", text=f" there was a fox who found {step} apples in the garden. " * 4),
        Saved(step=step, path=f"checkpoints/step-{step:08d}", size_bytes=15_000_000, best=True),
    ]


def write_events(log: EventLog, first: int, last: int) -> None:
    """Steps `first` to `last`, both included, with what happens on the way."""
    for step in range(first, last + 1):
        log.append(step_event(step))
        for event in periodic_events(step):
            log.append(event)


def scripted_run(home: Path, name: str, steps: int, *, end: str = "", config: RunConfig | None = None) -> Run:
    """The directory of a run that has taken `steps` steps; `end` is the status it ended with, "" for none."""
    run = Run.create(home, name, config or from_mapping({"train": {"steps": TOTAL}}))
    log = run.log()
    log.append(Progress(stage="Training the tokenizer", done=3e6, total=8e6, unit="bytes"))
    log.append(started_event())
    write_events(log, 1, steps)
    if end:
        log.append(Finished(step=steps, status=end))
    log.close()
    return run


class ScriptedTrainer:
    """Replaces `llm.training.run.run_training`: prepares until `prepared` is set, takes `steps` steps, and keeps
    obeying until it is told to stop."""

    def __init__(self, steps: int = 250) -> None:
        self.steps = steps
        self.prepared = threading.Event()
        self.problem = ""
        self.obeyed: list[str] = []
        self.commands: list[tuple[str, dict[str, Any]]] = []
        """The same with what came along."""
        self.overrides: Overrides = ()

    def __call__(
        self,
        run: Run,
        home: Path,
        *,
        commands: CommandQueue,
        overrides: Overrides,
        on_event: Callable[[Event], None],
        on_live: Callable[[Any], None],
    ) -> object:
        self.overrides = overrides
        if self.problem:
            raise UserError(self.problem)
        with run.lock():
            commands.tail = run.commands()
            log = run.log()
            log.append(Progress(stage="Tokenizing", done=4e6, total=10e6, unit="bytes"))
            if not self.prepared.wait(30):
                raise TimeoutError("nobody let the script go on")
            for event in (started_event(),):
                log.append(event)
                on_event(event)
            write_events(log, 1, self.steps)
            on_live(object())
            self.obey(commands, log)
            log.close()
        return None

    def obey(self, commands: CommandQueue, log: EventLog) -> None:
        waiting = threading.Event()
        while True:
            waiting.wait(0.01)
            commands.poll()
            while (command := commands.next()) is not None:
                self.obeyed.append(command.name)
                self.commands.append((command.name, command.arguments))
                where: dict[str, Any] = {"step": self.steps, "command_id": command.id}
                if command.name == "stop":
                    log.append(Saved(path="checkpoints/step-00000250", size_bytes=1, **where))
                    log.append(Finished(status="stopped", reason=str(command.arguments.get("reason", "")), **where))
                    return
                if command.name == "set":
                    path, text = command.arguments["key"], command.arguments["value"]
                    config = with_overrides(RunConfig(), [(path, text)])
                    previous = get_value(RunConfig(), path)
                    log.append(KnobSet(key=path, value=get_value(config, path), previous=previous, **where))
                elif command.name in ("pause", "resume"):
                    log.append((Paused if command.name == "pause" else Resumed)(**where))


def prepared_trainer(steps: int = 3) -> ScriptedTrainer:
    """A trainer that takes its steps at once."""
    trainer = ScriptedTrainer(steps=steps)
    trainer.prepared.set()
    return trainer


class NoPreflight:
    """Stands in for the process that measures; the real one is tested elsewhere."""

    def __init__(self, config: Any, name: str, home: Path, on_progress: Any, on_end: Any) -> None:
        self.name, self.on_end = name, on_end
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True
        self.on_end(None, "canceled")
