"""Runs that wait for their turn, in `<home>/queue.json`: the names of runs, the next one first.

A run that waits is a run like any other that was not trained yet, or not to its end: what will be trained is fixed in
its directory when it is put in line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm.config.presets import NAME
from llm.errors import UserError, WrongUse
from llm.file_locks import try_lock
from llm.files import read_json, write_json
from llm.run import Run

FORMAT = 1


class RunQueue:
    """The line of one home. Every change is written at once, and safe beside another workbench's."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "queue.json"

    def names(self) -> list[str]:
        """The runs that wait, the next one first; runs that are gone meanwhile are left out."""
        return [name for name in self._read() if self._is_there(name)]

    def add(self, run: Run) -> int:
        """Put a run at the end; returns its place, from 1. `WrongUse` where it waits already or has nothing to do."""
        status = run.status()
        if status.is_running or status.name == "finished":
            why = "is in training" if status.is_running else "has reached its length: fork it, or resume it for longer"
            raise WrongUse(f"{run.name} {why}, so it cannot wait in the queue.")
        with self._changed() as names:
            if run.name in names:
                raise WrongUse(f"{run.name} waits in the queue already.")
            names.append(run.name)
            return len(names)

    def remove(self, name: str) -> None:
        with self._changed() as names:
            if name in names:
                names.remove(name)

    def move(self, name: str, by: int) -> None:
        """Bring a run nearer to the front (negative) or further back; at the ends it stays."""
        with self._changed() as names:
            if name in names:
                place = names.index(name)
                names.insert(min(max(place + by, 0), len(names) - 1), names.pop(place))

    def renamed(self, name: str, new: str) -> None:
        """Follow a run that was given another name."""
        with self._changed() as names:
            names[:] = [new if waiting == name else waiting for waiting in names]

    def take(self) -> Run | None:
        """The run whose turn it is, out of the line."""
        with self._changed() as names:
            names[:] = [name for name in names if self._is_there(name)]
            return Run(self.home / "runs" / names.pop(0)) if names else None

    def _is_there(self, name: str) -> bool:
        return (self.home / "runs" / name / "run.toml").is_file()

    def _read(self) -> list[str]:
        try:
            record = read_json(self.path) if self.path.exists() else {}
            names = record.get("runs", []) if record.get("format", FORMAT) <= FORMAT else []
            return [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
        except (UserError, AttributeError, TypeError):
            return []  # a damaged list holds nothing that is not in the run directories

    @contextmanager
    def _changed(self) -> Iterator[list[str]]:
        """The names, to be changed; written if they were."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.home / "queue.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"the queue in {self.home} cannot be changed ({error.strerror}); make room, or allow writing."
            ) from error
        try:
            try_lock(lock, wait=True)
            before = self._read()
            names = list(before)
            yield names
            names = [name for name in names if self._is_there(name)]
            if names != before:
                write_json(self.path, {"format": FORMAT, "runs": names})
        finally:
            os.close(lock)


class QueueRunner:
    """Starts the next run when the one before has ended, wherever that one trained meanwhile.

    `begin` starts a run here, `is_busy` says whether one trains anywhere. A line that is left from an earlier time
    waits until the first training of this workbench ends, or until `start_next` is called.
    """

    def __init__(self, queue: RunQueue, begin: Callable[[Run], object], is_busy: Callable[[str], bool]) -> None:
        self.queue = queue
        self.begin = begin
        self.is_busy = is_busy
        self.waiting_for = ""
        """The run whose end is waited for."""

    def follow(self, name: str) -> None:
        """The line waits for the end of a training that goes on."""
        self.waiting_for = name

    def due(self) -> bool:
        """Whether the run that was waited for has ended."""
        return bool(self.waiting_for) and not self.is_waiting

    @property
    def is_waiting(self) -> bool:
        """Whether the run that is waited for goes on."""
        return bool(self.waiting_for) and self.is_busy(self.waiting_for)

    def start_next(self) -> Run | None:
        """Begin the run whose turn it is; None where none waits. `UserError` where it cannot be trained."""
        self.waiting_for = ""
        run = self.queue.take()
        if run is not None:
            self.waiting_for = run.name
            self.begin(run)
        return run
