"""Start, control and stop training, in a thread of this program or in a background process.

Both write the same run directory and read the same `commands.jsonl`, so other code need not know where a run trains.
"""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from llm.events import CommandRefused, Event, Finished, Saved, Started
from llm.launch import Launch, explain_end, start_detached, training_command
from llm.memory import check_memory_for_torch, memory_errors_as_user_errors
from llm.run import Command, Run, list_runs
from llm.run.log import last_events
from llm.training.commands import CommandQueue
from workbench.presets.sizes import size_entry
from workbench.terminal import write_log
from workbench.train.stages import Stages
from workbench.ui.garbage import freeze_loaded_objects

PREPARATION_SECONDS = 2.0
"""How long a run that is being prepared may take to stop when the program ends."""

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


def train_with_torch(run: Run, home: Path, *, on_event: Callable[[Event], None], **arguments: Any) -> object:
    """`llm.training.run.run_training`; importing it loads torch, which is why that happens here and not above."""
    check_memory_for_torch()
    with memory_errors_as_user_errors():
        from llm.training.run import run_training

    def notice(event: Event) -> None:
        if isinstance(event, Started):  # by now everything is loaded
            freeze_loaded_objects()
        on_event(event)

    try:
        return run_training(run, home, on_event=notice, **arguments)
    finally:
        freeze_loaded_objects()


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
    has_started: bool = False  # past preparation: from here on there is something to save
    stop_requested: bool = False
    end: Finished | None = None
    problem: str = ""
    refusals: dict[str, str] = field(default_factory=dict)
    unsaved: str = ""

    @property
    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def handle_event(self, event: Event) -> None:
        """Handle an event of the trainer, in its thread."""
        if isinstance(event, Started):
            self.has_started = True
        elif isinstance(event, Finished):
            self.end = event
        elif isinstance(event, Saved):
            self.unsaved = ""
        elif isinstance(event, CommandRefused):
            self.refusals[event.command_id] = event.reason
            self.unsaved = event.reason if event.command == "stop" else self.unsaved


class TrainingService:
    """Trains one run in a thread of this program, and others in background processes."""

    def __init__(
        self,
        home: Path,
        *,
        trainer: Trainer = train_with_torch,
    ) -> None:
        self.home = home
        self.on_end: Callable[[str, str], object] = lambda name, problem: None
        """Called as `on_end(run_name, problem)` from the training thread when it ends; `problem` is "" for success."""
        self.on_begin: Callable[[str], object] = lambda name: None
        """Called as `on_begin(run_name)` when a training starts, here or in a background process."""
        self.stages = Stages(home)
        self._trainer = trainer
        self._current: ThreadTraining | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.is_abandoned = False
        """Whether the program exits without saving the training."""

    @property
    def active(self) -> str | None:
        """The name of the run in training in this program, None for none."""
        current = self._current
        return current.run.name if current is not None and current.is_alive else None

    def is_busy(self, name: str) -> bool:
        """Whether a run trains or is starting, in this program, in its background processes, or elsewhere."""
        if self.active == name or self.has_process(name):
            return True
        run = Run(self.home / "runs" / name)
        return run.path.exists() and run.holder() is not None

    def has_process(self, name: str) -> bool:
        """Whether a background process of this program trains the run."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def elsewhere(self) -> str:
        """The name of a run of this home that trains or is starting outside this program's thread; "" for none. Looks
        at every run."""
        own = (name for name, process in self._processes.items() if process.poll() is None)
        held = (run.name for run in list_runs(self.home) if run.name != self.active and run.holder() is not None)
        return next(own, "") or next(held, "")

    def start(self, config: RunConfig, stem: str, size: str = "") -> Run:
        """Create a run of `config` (see `create`) and start its training."""
        run = self.create(config, stem, size)
        self.begin(run)
        return run

    def create(self, config: RunConfig, stem: str, size: str = "") -> Run:
        """Create a run of `config`, named `stem` with the next free number. For a preset with a base, it is the base
        run unless that is complete. `size` is the size of the preset, or of that of its base, "" if it has none."""
        if config.tune.base:
            return self.stages.first_run(config, stem, size)
        return Run.create_numbered(self.home, stem, config, extra=size_entry(size))

    def begin(self, run: Run, overrides: Overrides = ()) -> bool:
        """Start or resume `run`: in a thread of this program if none trains, else in a background process. Several
        ranks always train in processes.

        Returns whether it is the thread. `overrides` are safe fields that a resumed run changes, such as its length.
        Raises `UserError` if the run is in training already.
        """
        holder = run.holder()
        if holder is not None:
            where = "this workbench" if holder.is_here else f"process {holder.pid} on {holder.host}"
            raise UserError(f"{run.name} is already in training in {where}; stop it there first.")
        if self.active is not None or with_overrides(run.config(), overrides).train.nproc > 1:
            self.begin_process(run, overrides)
            return False
        current = self._current = ThreadTraining(run, overrides)
        current.thread = threading.Thread(target=self._train, args=(current,), name=f"train {run.name}", daemon=True)
        current.thread.start()
        self.on_begin(run.name)
        return True

    def begin_process(self, run: Run, overrides: Overrides = ()) -> int:
        """Train `run` in a background process, or in the several that `train.nproc` asks for. They outlive this
        program and its terminal. Returns the pid."""
        began = time.time()
        launch = Launch(nproc=with_overrides(run.config(), overrides).train.nproc)
        process = start_detached(training_command(run, self.home, launch, overrides), run)
        self._processes[run.name] = process
        self.on_begin(run.name)
        threading.Thread(
            target=self._reap, args=(run, process, began, launch.world_size), name=f"reap {run.name}", daemon=True
        ).start()
        return process.pid

    def _reap(self, run: Run, process: subprocess.Popen[bytes], began: float, world_size: int) -> None:
        """Wait for a background process to end. Report a failure that is not in the log of the run, such as a refused
        resume."""
        if process.wait() not in (1, 2):
            return
        with suppress(OSError):
            ends = [event for event in last_events(run.path / "events.jsonl") if isinstance(event, Finished)]
            if not any(event.status == "failed" and event.time >= began for event in ends):
                self.on_end(run.name, explain_end(run, world_size))

    def send(self, run_name: str, command: str, **arguments: Any) -> str:
        """Send a command to the trainer of a run; returns the id of the command, which its answer has."""
        current = self._current
        if current is not None and run_name == self.active:  # received even before it reads the file
            message = Command(command, secrets.token_hex(6), arguments)
            current.commands.inject(message)
            return message.id
        return Run.open(self.home, run_name).send(command, **arguments)

    def live_model(self, run_name: str) -> Any | None:
        """The weights (`llm.training.live.LiveWeights`) of a run in training in this program, else None."""
        current = self._current
        return current.live if current is not None and current.is_alive and current.run.name == run_name else None

    def request_stop(self, reason: str = "asked to stop", **how: bool) -> str:
        """Request that the training of this program saves and ends; does not wait. Returns the id of the request.

        `must_save=True`: training continues if it cannot be saved; `refusal` has the reason. `save=False`: end without
        saving. Otherwise the training ends, as failed if it could not be saved.
        """
        current = self._current
        if current is None or not current.is_alive:
            return ""
        current.stop_requested = True
        return self.send(current.run.name, "stop", reason=reason, **how)

    def refusal(self, request: str) -> str:
        """Why the trainer of this program refused the request with this id; "" if it did not."""
        current = self._current
        return current.refusals.get(request, "") if current is not None else ""

    @property
    def unsaved(self) -> str:
        """Why the training of this program could not be saved at the last stop request; "" if it was."""
        current = self._current
        if current is None or not current.stop_requested:
            return ""
        return current.unsaved if current.is_alive else current.problem

    @property
    def can_detach(self) -> bool:
        """Whether the last training of this program stopped early and is saved: another process can resume it."""
        current = self._current
        if current is None or current.is_alive or current.problem:
            return False
        return current.end is None or current.end.status == "stopped"

    @property
    def has_work_to_save(self) -> bool:
        """Whether a training thread runs and is past the preparation, so that it has something to save."""
        current = self._current
        return not self.is_abandoned and current is not None and current.is_alive and current.has_started

    def shutdown(self, timeout: float = 600.0) -> bool:
        """Stop the training of this program and wait for its end, at most `timeout` seconds; returns whether it is
        saved. A run that is still being prepared has nothing to save and gets `PREPARATION_SECONDS` to log its stop.
        Without an entry in its log it would be listed as crashed."""
        if self.is_abandoned:
            return False
        self.request_stop("the workbench was closed")
        began = time.monotonic()
        while self.active and time.monotonic() - began < (timeout if self.has_work_to_save else PREPARATION_SECONDS):
            time.sleep(0.05)
        if self.active and not self.has_work_to_save:
            self._log_stop()
        return not self.has_work_to_save and not self.unsaved

    def _log_stop(self) -> None:
        """Log the stop of a run whose preparation does not end in time, as where a large model is built."""
        if self._current is not None and not (run := self._current.run).checkpoints():
            with suppress(OSError), closing(run.log()) as log:
                log.append(Finished(step=0, status="stopped", reason="the workbench was closed before the first step"))

    def _train(self, current: ThreadTraining) -> None:
        """The training thread. Errors go to `on_end`, with the traceback in the log."""

        def share(live: Any) -> None:
            current.live = live

        try:
            self._trainer(
                current.run,
                self.home,
                commands=current.commands,
                overrides=current.overrides,
                on_event=current.handle_event,
                on_live=share,
            )
        except UserError as error:
            current.problem = str(error)
        except Exception as error:  # noqa: BLE001 - the end of a thread: report the error to the user
            write_log(traceback.format_exc())
            current.problem = (
                f"training {current.run.name} failed ({type(error).__name__}: {error}); see its crash.txt."
            )
        finally:
            current.live = None
        self.on_end(current.run.name, current.problem)
