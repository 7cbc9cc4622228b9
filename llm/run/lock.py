"""The lock of a run: one process trains it at a time.

The lock is an flock on the file `<run>/lock` and on the folder of the run; it ends with the process. The file names the
holder and is never deleted; the folder stays locked if the file is deleted. On a file system without locks, the
record in the file replaces the lock: of two simultaneous starts, the one whose record remains wins; a record of this
machine counts while its process runs; a record of another machine counts until the file is deleted.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llm.errors import UserError
from llm.file_locks import try_lock
from llm.reader import WRONG_SHAPE, parse_json

SAFE_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK
"""Flags to open a lock without following links (another file would be overwritten) or blocking on a FIFO."""
TRIES, TRY_SECONDS = 20, 0.05
"""A lock counts as held only after a second of attempts, since `holder_of` in another process takes it briefly."""
CLOCK_SECONDS = 2.0  # tolerance between two readings of a start time
UNKNOWN = "unknown host"
SETTLE_SECONDS = 0.3
"""Without locks: seconds between writing the record and reading it back, in which another start may overwrite it."""
NO_LOCKS_WARNING = (
    "the file system of this run has no file locks (flock), so two trainers of one run cannot be prevented reliably; "
    "do not resume it from two places at once."
)


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of a run. `began` is its start time in Unix seconds, 0 if unknown; `locked` is
    whether the file system has locks."""

    pid: int
    host: str
    began: float = field(default=0.0, compare=False)
    locked: bool = field(default=True, compare=False)

    @property
    def is_here(self) -> bool:
        """Whether the holder is this process."""
        return self.pid == os.getpid() and self.host == socket.gethostname()


class RunBusy(UserError):
    """Another process trains this run."""

    def __init__(self, path: Path, holder: Holder | None, advice: str = "") -> None:
        who = f"process {holder.pid} on {holder.host}" if holder and holder.pid else "another process"
        advice = advice or f"stop it first with llm-workbench stop {path.parent.name}, or fork the run"
        super().__init__(f"run {path.parent.name} is being trained by {who}; {advice}.")
        self.holder = holder


class RunLock:
    """The lock on `<run>/lock` and `<run>`, a context manager. `has_locks`: whether the file system has locks.

    The descriptors are closed in forked children (and on exec, as Python does by default): inherited ones would keep
    the lock after its holder has died.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = self.folder = -1
        self.has_locks = True

    def __enter__(self) -> RunLock:
        try:
            self._take_folder()  # first: a new lock file would not show that another trainer holds the folder
            self._take_file()
        except OSError as error:
            self._close()
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}); free some space, or allow writing."
            ) from error
        except RunBusy:
            self._close()
            raise
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(this))
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.has_locks and self.descriptor >= 0:
            with suppress(OSError):
                if (holder := read_record(self.descriptor)) is not None and holder.is_here:
                    os.ftruncate(self.descriptor, 0)
        self._close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to show about this lock."""
        return () if self.has_locks else (NO_LOCKS_WARNING,)

    def renew(self) -> None:
        """Create and lock the file again if it was deleted. `RunBusy` if another trainer holds it now, `OSError` if it
        cannot be written."""
        with suppress(FileNotFoundError):
            if self.descriptor >= 0 and os.path.samestat(os.fstat(self.descriptor), self.path.stat()):
                return
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._take_file()

    def _take_file(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | SAFE_OPEN, 0o644)
        self.has_locks = self._try_lock(self.descriptor)
        other = None if self.has_locks else read_record(self.descriptor)
        if other is not None and is_alive(other):
            raise RunBusy(self.path, other, f"stop it first or, if it has ended, delete {self.path}")
        write_record(self.descriptor, self.has_locks)
        if not self.has_locks:
            time.sleep(SETTLE_SECONDS)
            if (other := read_record(self.descriptor)) is None or not other.is_here:
                raise RunBusy(self.path, other)

    def _take_folder(self) -> None:
        self.folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._try_lock(self.folder)

    def _try_lock(self, descriptor: int) -> bool:
        """Lock `descriptor`; returns whether the file system has locks. `RunBusy` if another process holds the lock."""
        for attempt in range(TRIES):
            try:
                return try_lock(descriptor)
            except BlockingIOError:
                if attempt < TRIES - 1:
                    time.sleep(TRY_SECONDS)
        raise RunBusy(self.path, holder_of(self.path))

    def _close(self) -> None:
        for descriptor in (self.descriptor, self.folder):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.folder = -1


def _close_in_child(reference: weakref.ref[RunLock]) -> None:
    lock = reference()
    if lock is not None:
        lock._close()


def holder_of(path: Path) -> Holder | None:
    """The process that holds the lock file `path` or its folder, or None. Needs no write permission."""
    recorded = None
    with suppress(OSError), open_descriptor(path, os.O_RDONLY | SAFE_OPEN) as descriptor:
        try:
            has_locks = try_lock(descriptor, shared=True)
        except BlockingIOError:
            return read_record(descriptor) or Holder(0, UNKNOWN)  # None: it has not written its record yet
        recorded = read_record(descriptor)
        if not has_locks:
            return recorded if recorded is not None and is_alive(recorded) else None
    with suppress(OSError), open_descriptor(path.parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
        try:
            try_lock(folder, shared=True)
        except BlockingIOError:
            return recorded or Holder(0, UNKNOWN)
    return None


@contextmanager
def open_descriptor(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of `path`; a context manager that closes it."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_record(descriptor: int, locked: bool) -> None:
    """Write this process into the lock file."""
    pid = os.getpid()
    record = {"pid": pid, "host": socket.gethostname(), "began": start_time_of(pid), "locked": locked}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def read_record(descriptor: int) -> Holder | None:
    """The process in a lock file; None without one."""
    try:
        record = parse_json(os.pread(descriptor, 4096, 0))
        began, locked = float(record.get("began", 0)), bool(record.get("locked", True))
        return Holder(int(record["pid"]), str(record["host"]), began, locked)
    except (OSError, *WRONG_SHAPE):
        return None


def is_alive(holder: Holder) -> bool:
    """Whether the process of a record still trains, on a file system without locks; True for another machine."""
    if holder.locked:
        return False  # written where locks work: this file is a copy, and the copy is not locked
    return holder.host != socket.gethostname() or abs(start_time_of(holder.pid) - holder.began) < CLOCK_SECONDS


def start_time_of(pid: int) -> float:
    """Start time of a process on this machine in Unix seconds; 0 where it does not exist."""
    import psutil  # slow to import, and rarely needed

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
