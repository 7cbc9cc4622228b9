"""The queue: names of runs in `<home>/queue.json`, the next one first. A queued run is a run directory."""

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
    """The queue of one home. Every change is written at once, under a lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "queue.json"

    def names(self) -> list[str]:
        """The queued runs, the next one first, without deleted ones."""
        return [name for name in self._read() if self._exists(name)]

    def add(self, run: Run) -> int:
        """Append a run; returns its position, from 1. `WrongUse` for a run that is queued, in training or finished."""
        status = run.status()
        if status.is_running or status.name == "finished":
            why = "is in training" if status.is_running else "is finished (fork it, or resume it with more steps)"
            raise WrongUse(f"{run.name} {why}, so it cannot be queued.")
        with self._edit() as names:
            if run.name in names:
                raise WrongUse(f"{run.name} is in the queue already.")
            names.append(run.name)
            return len(names)

    def remove(self, name: str) -> None:
        with self._edit() as names:
            if name in names:
                names.remove(name)

    def move(self, name: str, by: int) -> None:
        """Move a run forward (negative `by`) or back; it stays at the ends."""
        with self._edit() as names:
            if name in names:
                place = names.index(name)
                names.insert(min(max(place + by, 0), len(names) - 1), names.pop(place))

    def rename(self, name: str, new: str) -> None:
        """Update the name of a run that was renamed."""
        with self._edit() as names:
            names[:] = [new if waiting == name else waiting for waiting in names]

    def take(self) -> Run | None:
        """Remove and return the next run."""
        with self._edit() as names:
            names[:] = [name for name in names if self._exists(name)]
            return Run(self.home / "runs" / names.pop(0)) if names else None

    def _exists(self, name: str) -> bool:
        return (self.home / "runs" / name / "run.toml").is_file()

    def _read(self) -> list[str]:
        try:
            record = read_json(self.path) if self.path.exists() else {}
            names = record.get("runs", []) if record.get("format", FORMAT) <= FORMAT else []
            return [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
        except (UserError, AttributeError, TypeError):
            return []  # a damaged file loses only the order: runs are directories

    @contextmanager
    def _edit(self) -> Iterator[list[str]]:
        """The names, for editing; written if they changed."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.home / "queue.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"the queue in {self.home} cannot be changed ({error.strerror}); free space or allow writing."
            ) from error
        try:
            try_lock(lock, wait=True)
            before = self._read()
            names = list(before)
            yield names
            names = [name for name in names if self._exists(name)]
            if names != before:
                write_json(self.path, {"format": FORMAT, "runs": names})
        finally:
            os.close(lock)


class QueueRunner:
    """Starts the next run when the previous one has ended, here or in another process.

    `begin` starts a run here, `is_busy` is whether one trains anywhere. A queue of an earlier session starts when the
    first run of this one ends, or when `start_next` is called.
    """

    def __init__(self, queue: RunQueue, begin: Callable[[Run], object], is_busy: Callable[[str], bool]) -> None:
        self.queue = queue
        self.begin = begin
        self.is_busy = is_busy
        self.waiting_for = ""
        """The run whose end the queue waits for."""

    def follow(self, name: str) -> None:
        """Wait for the end of this run."""
        self.waiting_for = name

    def is_due(self) -> bool:
        """Whether the run that the queue waited for has ended."""
        return bool(self.waiting_for) and not self.is_waiting

    @property
    def is_waiting(self) -> bool:
        """Whether the queue waits for a run that still trains."""
        return bool(self.waiting_for) and self.is_busy(self.waiting_for)

    def start_next(self) -> Run | None:
        """Start the next run; None for an empty queue. Raises `UserError` where it cannot be trained."""
        self.waiting_for = ""
        run = self.queue.take()
        if run is not None:
            self.waiting_for = run.name
            self.begin(run)
        return run
