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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm.config import RunConfig
from llm.errors import UserError
from llm.events import CommandRefused, Event, Finished, Saved, Started
from llm.memory import check_memory_for_torch, memory_errors_as_user_errors
from llm.run import Command, Run, list_runs
from llm.run.log import last_events
from llm.training.commands import CommandQueue
from workbench.terminal import write_log
from workbench.ui.garbage import leave_out_what_is_loaded

Overrides = tuple[tuple[str, str], ...]


class Trainer(Protocol):
    """`llm.training.run.run_training` or a test double: trains `run` to its end, or until `commands` hold a stop."""

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
    """`llm.training.run.run_training`; importing it loads torch, which is why that happens here and not above."""
    check_memory_for_torch()
    with memory_errors_as_user_errors():
        from llm.training.run import run_training

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
    """The training in a thread of this program. `live` are its weights (`llm.training.live.LiveWeights`), `end` is how
    it ended and `problem` why it failed. `refusals` are the reasons of refused commands by their ids; `unsaved` is why
    the last request to stop was refused, "" once a save has succeeded."""

    run: Run
    overrides: Overrides
    thread: threading.Thread | None = None
    commands: CommandQueue = field(default_factory=CommandQueue)
    live: Any = None
    has_begun: bool = False  # past preparation: from here on there is something to save
    asked_to_stop: bool = False
    end: Finished | None = None
    problem: str = ""
    refusals: dict[str, str] = field(default_factory=dict)
    unsaved: str = ""

    @property
    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def note(self, event: Event) -> None:
        """Take in what the trainer reports, in its thread."""
        if isinstance(event, Started):
            self.has_begun = True
        elif isinstance(event, Finished):
            self.end = event
        elif isinstance(event, Saved):
            self.unsaved = ""
        elif isinstance(event, CommandRefused):
            self.refusals[event.command_id] = event.reason
            self.unsaved = event.reason if event.command == "stop" else self.unsaved


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
        run = Run.create_numbered(self.home, stem, config)
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
        log_path, began = run.path / "process.log", time.time()
        flags = [part for path, value in overrides for part in (f"--{path}", value)]
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "llm.train", str(run.path), "--home", str(self.home), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[run.name] = process
        self.on_begin(run.name)
        threading.Thread(target=self._reap, args=(run, process, began), name=f"reap {run.name}", daemon=True).start()
        return process.pid

    def _reap(self, run: Run, process: subprocess.Popen[bytes], began: float) -> None:
        """Wait for the end of a process of this program, and tell a failure that the run's own log does not tell: a
        refused resume changes nothing there."""
        if process.wait() not in (1, 2):
            return
        with suppress(OSError):
            ends = [event for event in last_events(run.path / "events.jsonl") if isinstance(event, Finished)]
            if not any(event.status == "failed" and event.time >= began for event in ends):
                said = (run.path / "process.log").read_text(errors="replace").strip().splitlines()
                self.on_end(run.name, said[-1] if said else f"{run.name} could not be trained")

    def send(self, run_name: str, command: str, **arguments: Any) -> str:
        """Ask the trainer of a run for something; returns the id its answer will carry."""
        current = self._current
        if current is not None and run_name == self.active:  # heard even before it listens to the file
            order = Command(command, secrets.token_hex(6), arguments)
            current.commands.inject(order)
            return order.id
        return Run.open(self.home, run_name).send(command, **arguments)

    def live_model(self, run_name: str) -> Any | None:
        """The weights of a run that trains in this program (`llm.training.live.LiveWeights`), else None."""
        current = self._current
        return current.live if current is not None and current.is_alive and current.run.name == run_name else None

    def ask_to_stop(self, reason: str = "asked to stop", **how: bool) -> str:
        """Tell the training of this program's thread to save and end; does not wait. Returns the request's id.

        `must_save=True`: training continues if it cannot be saved, which `refusal` then tells. `save=False`: end
        without saving. Otherwise the training ends in any case, as failed where it could not be saved.
        """
        current = self._current
        if current is None or not current.is_alive:
            return ""
        current.asked_to_stop = True
        return self.send(current.run.name, "stop", reason=reason, **how)

    def refusal(self, request: str) -> str:
        """Why the trainer of this program's thread refused the request of that id; "" if it has not."""
        current = self._current
        return current.refusals.get(request, "") if current is not None else ""

    @property
    def unsaved(self) -> str:
        """Why the training of this program's thread could not be saved when it was last asked to stop; "" if it was."""
        current = self._current
        if current is None or not current.asked_to_stop:
            return ""
        return current.unsaved if current.is_alive else current.problem

    @property
    def can_move(self) -> bool:
        """Whether the last training of this program's thread was stopped before its end, and all of it is saved."""
        current = self._current
        if current is None or current.is_alive or current.problem:
            return False
        return current.end is None or current.end.status == "stopped"

    @property
    def must_be_waited_for(self) -> bool:
        """Whether a training thread still runs that has something to save. One that still prepares has not."""
        current = self._current
        return current is not None and current.is_alive and current.has_begun

    def shutdown(self, patience: float = 600.0) -> bool:
        """Stop the training of this program's thread and wait, at most `patience` seconds, until it has ended; returns
        whether all of it is saved."""
        self.ask_to_stop("the workbench was closed")
        limit = time.monotonic() + patience
        while self.must_be_waited_for and time.monotonic() < limit:
            time.sleep(0.05)
        return not self.must_be_waited_for and not self.unsaved

    def _train(self, current: ThreadTraining) -> None:
        """The training thread. Whatever goes wrong in it is told to the app, with the details in the log."""

        def share(live: Any) -> None:
            current.live = live

        try:
            self._trainer(
                current.run,
                self.home,
                commands=current.commands,
                overrides=current.overrides,
                on_event=current.note,
                on_live=share,
            )
        except UserError as error:
            current.problem = str(error)
        except Exception as error:  # noqa: BLE001 - the end of a thread: the error must reach the person, not vanish
            write_log(traceback.format_exc())
            current.problem = (
                f"training {current.run.name} failed ({type(error).__name__}: {error}); see its crash.txt."
            )
        finally:
            current.live = None
        self.on_end(current.run.name, current.problem)
