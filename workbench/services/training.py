"""Starting, steering and stopping training, in this program's own thread or in a process of its own.

Both write the same run directory and obey the same `commands.jsonl`, so whoever steers a run or reads it does not need
to know where it trains.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm.commands import CommandQueue
from llm.config import RunConfig
from llm.errors import UserError
from llm.events import Event, Started
from llm.run import Command, Run, free_name, list_runs
from workbench.garbage import leave_out_what_is_loaded
from workbench.terminal import write_log

Overrides = tuple[tuple[str, str], ...]


class Trainer(Protocol):
    """`llm.training.run_training`, or a stand-in for tests: trains `run` to its end or until `commands` hold a stop."""

    def __call__(
        self,
        run: Run,
        home: Path,
        *,
        commands: CommandQueue,
        overrides: Overrides,
        on_event: Callable[[Event], None],
        on_live: Callable[[Any], None],
    ) -> object: ...


def train_for_real(run: Run, home: Path, *, on_event: Callable[[Event], None], **arguments: Any) -> object:
    """`llm.training.run_training`; importing it loads torch, which is why that happens here and not above."""
    from llm.training import run_training

    def notice(event: Event) -> None:
        if isinstance(event, Started):  # by now everything is loaded
            leave_out_what_is_loaded()
        on_event(event)

    try:
        return run_training(run, home, on_event=notice, **arguments)
    finally:
        leave_out_what_is_loaded()


@dataclass
class ThreadTraining:
    """The one training of this program's thread. `live` is an `llm.live.LiveWeights` once there are weights."""

    run: Run
    overrides: Overrides
    thread: threading.Thread | None = None
    commands: CommandQueue = field(default_factory=CommandQueue)
    live: Any = None
    has_begun: bool = False  # past preparation: from here on there is something to save

    @property
    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class TrainingService:
    """Knows which run trains in this program, and starts others in processes of their own."""

    def __init__(
        self,
        home: Path,
        *,
        trainer: Trainer = train_for_real,
    ) -> None:
        self.home = home
        self.on_end: Callable[[str, str], object] = lambda name, problem: None
        """Called as `on_end(run_name, problem)` from the training thread when it is over; `problem` is "" if all is
        well."""
        self.on_begin: Callable[[str], object] = lambda name: None
        """Called as `on_begin(run_name)` by whoever begins a training, here or in a process of its own."""
        self._trainer = trainer
        self._current: ThreadTraining | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def active(self) -> str | None:
        """The name of the run that trains in this program's thread now."""
        current = self._current
        return current.run.name if current is not None and current.is_alive else None

    def is_busy(self, name: str) -> bool:
        """Whether a run trains, or is about to: here, in a process that may hold no lock yet, or elsewhere."""
        if self.active == name or self.has_process(name):
            return True
        run = Run(self.home / "runs" / name)
        return run.path.exists() and run.holder() is not None

    def has_process(self, name: str) -> bool:
        """Whether a process that this program started trains the run."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def elsewhere(self) -> str:
        """The name of a run of this home that trains, or is about to, apart from this program's thread; "" where none
        does. Looks at every run."""
        own = (name for name, process in self._processes.items() if process.poll() is None)
        held = (run.name for run in list_runs(self.home) if run.name != self.active and run.holder() is not None)
        return next(own, "") or next(held, "")

    def start(self, config: RunConfig, stem: str) -> Run:
        """A new run of `config`, named after `stem` with the next free number, in training."""
        run = Run.create(self.home, free_name(self.home, stem), config)
        self.begin(run)
        return run

    def begin(self, run: Run, overrides: Overrides = ()) -> bool:
        """Train `run` from where it stands: in this program's thread if that is free, else in a process of its own.

        Returns whether it is the thread. `overrides` are safe fields that a resumed run changes, such as its length.
        Raises `UserError` when somebody trains it already.
        """
        holder = run.holder()
        if holder is not None:
            where = "this workbench" if holder.is_here else f"process {holder.pid} on {holder.host}"
            raise UserError(f"run {run.name} is already in training, by {where}; stop it there first.")
        if self.active is not None:
            self.begin_process(run, overrides)
            return False
        current = self._current = ThreadTraining(run, overrides)
        current.thread = threading.Thread(target=self._train, args=(current,), name=f"train {run.name}", daemon=True)
        current.thread.start()
        self.on_begin(run.name)
        return True

    def begin_process(self, run: Run, overrides: Overrides = ()) -> int:
        """Train `run` in a process of its own that outlives this program and its terminal; returns its pid."""
        flags = [part for path, value in overrides for part in (f"--{path}", value)]
        with (run.path / "process.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "llm.train", str(run.path), "--home", str(self.home), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[run.name] = process
        self.on_begin(run.name)
        threading.Thread(target=process.wait, name=f"reap {run.name}", daemon=True).start()
        return process.pid

    def send(self, run_name: str, command: str, **arguments: Any) -> str:
        """Ask the trainer of a run for something; returns the id its answer will carry."""
        current = self._current
        if current is not None and run_name == self.active:  # heard even before it listens to the file
            order = Command(command, secrets.token_hex(6), arguments)
            current.commands.inject(order)
            return order.id
        return Run.open(self.home, run_name).send(command, **arguments)

    def live_model(self, run_name: str) -> Any | None:
        """The weights of a run that trains in this program (`llm.live.LiveWeights`), else None."""
        current = self._current
        return current.live if current is not None and current.is_alive and current.run.name == run_name else None

    def ask_to_stop(self, reason: str = "asked to stop") -> None:
        """Tell the training of this program's thread to save and end; does not wait."""
        if self.active is not None:
            self.send(self.active, "stop", reason=reason)

    @property
    def must_be_waited_for(self) -> bool:
        """Whether a training thread still runs that has something to save. One that still prepares has not."""
        current = self._current
        return current is not None and current.is_alive and current.has_begun

    def shutdown(self, patience: float = 600.0) -> bool:
        """Stop the training of this program's thread and wait, at most `patience` seconds, until it has saved."""
        self.ask_to_stop("the workbench was closed")
        limit = time.monotonic() + patience
        while self.must_be_waited_for and time.monotonic() < limit:
            time.sleep(0.05)
        return not self.must_be_waited_for

    def _train(self, current: ThreadTraining) -> None:
        """The training thread. Whatever goes wrong in it is told to the app, with the details in the log."""

        def notice(event: Event) -> None:
            current.has_begun = current.has_begun or isinstance(event, Started)

        def share(live: Any) -> None:
            current.live = live

        problem = ""
        try:
            self._trainer(
                current.run,
                self.home,
                commands=current.commands,
                overrides=current.overrides,
                on_event=notice,
                on_live=share,
            )
        except UserError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - the end of a thread: the error must reach the person, not vanish
            write_log(traceback.format_exc())
            problem = f"training {current.run.name} failed ({type(error).__name__}: {error}); see its crash.txt."
        finally:
            current.live = None
        self.on_end(current.run.name, problem)
