"""Starting, steering and stopping training, in this program's own thread or in a process of its own.

Both write the same run directory and obey the same `commands.jsonl`, so whoever steers a run or reads it does not need
to know where it trains.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm.config import RunConfig
from llm.errors import UserError
from llm.run import Run, free_name
from workbench.terminal import write_log


class Trainer(Protocol):
    """`llm.train.run_training`, or a stand-in for tests: trains `run` to its end or until it is told to stop."""

    def __call__(self, run: Run, *, live: Any) -> object: ...


def train_in_thread(run: Run, *, live: Any) -> object:
    """The real trainer; importing it loads torch, which is why it happens here and not above."""
    from llm.train import run_training

    return run_training(run, live=live)


def new_live_weights() -> Any:
    """What the training thread shares with the chat: the weights, behind their lock."""
    from llm.trainer import LiveWeights

    return LiveWeights()


@dataclass
class ThreadTraining:
    """The one training of this program's thread."""

    run: Run
    thread: threading.Thread
    live: Any
    stop_wanted: bool = False
    problem: str = ""
    began: float = field(default_factory=time.monotonic)


class TrainingService:
    """Knows which run trains in this program, and starts others in processes of their own."""

    def __init__(
        self,
        home: Path,
        *,
        on_end: Callable[[str, str], None] | None = None,
        trainer: Trainer = train_in_thread,
        live_factory: Callable[[], Any] = new_live_weights,
    ) -> None:
        """`on_end(run_name, problem)` is called from the training thread when it is over; `problem` is "" if all is
        well."""
        self.home = home
        self._on_end = on_end or (lambda name, problem: None)
        self._trainer = trainer
        self._live_factory = live_factory
        self._current: ThreadTraining | None = None

    @property
    def active(self) -> str | None:
        """The name of the run that trains in this program's thread now."""
        current = self._current
        return current.run.name if current is not None and current.thread.is_alive() else None

    def start(self, config: RunConfig, stem: str) -> Run:
        """A new run of `config`, named after `stem` with the next free number, in training."""
        run = Run.create(self.home, free_name(self.home, stem), config)
        self.begin(run)
        return run

    def begin(self, run: Run) -> bool:
        """Train `run` from where it stands: in this program's thread if that is free, else in a process of its own.

        Returns whether it is the thread. Raises `UserError` when somebody trains it already.
        """
        holder = run.holder()
        if holder is not None:
            raise UserError(f"run {run.name} is already in training, by process {holder.pid} on {holder.host}.")
        if self.active is not None:
            self.begin_process(run)
            return False
        thread = threading.Thread(target=self._train, args=(run,), name=f"training {run.name}", daemon=True)
        self._current = ThreadTraining(run, thread, live=None)
        thread.start()
        return True

    def begin_process(self, run: Run) -> int:
        """Train `run` in a process of its own that outlives this program and its terminal; returns its pid."""
        with (run.path / "process.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "llm.train", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        threading.Thread(target=process.wait, name=f"reaper {run.name}", daemon=True).start()
        return process.pid

    def send(self, run_name: str, command: str, **arguments: Any) -> str:
        """Ask the trainer of a run for something; returns the id its answer will carry."""
        if command == "stop" and run_name == self.active and self._current is not None:
            self._current.stop_wanted = True
        return Run.open(self.home, run_name).send(command, **arguments)

    def live_model(self, run_name: str) -> Any | None:
        """The weights of a run that trains in this program (`llm.trainer.LiveWeights`), else None."""
        current = self._current
        return current.live if current is not None and current.run.name == run_name == self.active else None

    def shutdown(self, *, on_wait: Callable[[float], None] | None = None, patience: float = 600.0) -> bool:
        """Stop the training of this program's thread and wait until it has saved; returns whether it has.

        `on_wait(seconds)` is called a few times a second meanwhile. A trainer starts listening only once it holds the
        run's lock, so the request is repeated until it is over.
        """
        current = self._current
        if current is None:
            return True
        asked = began = time.monotonic()
        while current.thread.is_alive() and time.monotonic() - began < patience:
            if not current.stop_wanted or time.monotonic() - asked > 1.0:
                asked = time.monotonic()
                self.send(current.run.name, "stop")
            current.thread.join(0.1)
            if on_wait is not None:
                on_wait(time.monotonic() - began)
        return not current.thread.is_alive()

    def _train(self, run: Run) -> None:
        """The training thread. Whatever goes wrong in it is told to the app, with the details in the log."""
        current = self._current
        assert current is not None
        try:
            current.live = self._live_factory()
            self._trainer(run, live=current.live)
        except UserError as error:
            current.problem = str(error)
        except Exception as error:  # noqa: BLE001 - the end of a thread: an error must reach the person, not vanish
            write_log(traceback.format_exc())
            current.problem = f"training {run.name} failed ({type(error).__name__}: {error}); see workbench.log."
        finally:
            current.live = None
        self._on_end(run.name, current.problem)
