"""Who trains a run: an advisory lock that ends with the process that holds it.

The lock is flock on the file `<run>/lock` and on the run's folder. The file names its holder and is never unlinked by
us; the folder stays locked when somebody else removes the file. Where the file system has no locks, the record in the
file stands in for them: two trainers that start within a moment of each other are told apart, a crashed one of this
machine is recognized by its process, and one of another machine is believed until the file is deleted.
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
from types import TracebackType

from llm.errors import UserError
from llm.file_locks import try_lock
from llm.reader import WRONG_SHAPE, parse_json

OWN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK
"""Open a lock only where it lies, and never wait: a link would have another file overwritten, a FIFO would hang."""
TRIES, TRY_SECONDS = 20, 0.05
"""`holder_of` takes the lock for a moment to look, so a refusal is believed only after a second."""
CLOCK_SECONDS = 2.0  # by which two looks at the start of one process may differ
UNKNOWN = "unknown host"
SETTLE_SECONDS = 0.3
"""Without locks: how long a trainer waits after it wrote its record, before it reads whose record has remained."""
NO_LOCKS_WARNING = (
    "the file system of this run has no locks (flock), so two trainers of one run cannot be kept apart for certain; "
    "do not resume it from two places at once."
)


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's lock. `began` is when the process started, in Unix seconds, 0 if unknown; `locked`
    is whether the file system had a lock for it."""

    pid: int
    host: str
    began: float = field(default=0.0, compare=False)
    locked: bool = field(default=True, compare=False)

    @property
    def is_here(self) -> bool:
        """Whether the holder is this very process."""
        return self.pid == os.getpid() and self.host == socket.gethostname()


class RunBusy(UserError):
    """Another process trains this run."""

    def __init__(self, path: Path, holder: Holder | None, advice: str = "") -> None:
        who = f"process {holder.pid} on {holder.host}" if holder and holder.pid else "another process"
        advice = advice or "stop it there first, or fork the run"
        super().__init__(f"run {path.parent.name} is being trained by {who}; {advice}.")
        self.holder = holder


class RunLock:
    """The lock on `<run>/lock` and `<run>`. `has_locks` says whether the file system keeps others out.

    The descriptors are closed in forked children (and on exec, as Python does by default), since inherited ones would
    keep the lock alive after its holder died.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = self.folder = -1
        self.has_locks = True

    def __enter__(self) -> RunLock:
        try:
            self._take_folder()  # first: the file may be a new one, in which we would overwrite no record but ours
            self._take_file()
        except OSError as error:
            self._close()
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}); make room, or allow writing."
            ) from error
        except RunBusy:
            self._close()
            raise
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(this))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.has_locks and self.descriptor >= 0:
            with suppress(OSError):
                if (holder := read_record(self.descriptor)) is not None and holder.is_here:
                    os.ftruncate(self.descriptor, 0)
        self._close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about this lock."""
        return () if self.has_locks else (NO_LOCKS_WARNING,)

    def renew(self) -> None:
        """Lock the file anew if somebody removed it. `RunBusy` if another trainer has locked it since, `OSError` if it
        cannot be written."""
        with suppress(FileNotFoundError):
            if self.descriptor >= 0 and os.path.samestat(os.fstat(self.descriptor), self.path.stat()):
                return
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._take_file()

    def _take_file(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self.has_locks = self._locked(self.descriptor)
        other = None if self.has_locks else read_record(self.descriptor)
        if other is not None and is_alive(other):
            raise RunBusy(self.path, other, f"stop it there first or, if it is gone, delete {self.path}")
        write_record(self.descriptor, self.has_locks)
        if not self.has_locks:
            time.sleep(SETTLE_SECONDS)
            if (other := read_record(self.descriptor)) is None or not other.is_here:
                raise RunBusy(self.path, other)

    def _take_folder(self) -> None:
        self.folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._locked(self.folder)

    def _locked(self, descriptor: int) -> bool:
        """Lock `descriptor`; whether there are locks. `RunBusy` where another process keeps it."""
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
    """Who holds the lock file `path` or the folder it is in, or None when nobody does. Needs no right to write."""
    recorded = None
    with suppress(OSError), opened(path, os.O_RDONLY) as descriptor:
        try:
            has_locks = try_lock(descriptor, shared=True)
        except BlockingIOError:
            return read_record(descriptor) or Holder(0, UNKNOWN)  # none: its holder has not written its name yet
        recorded = read_record(descriptor)
        if not has_locks:
            return recorded if recorded is not None and is_alive(recorded) else None
    with suppress(OSError), opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
        try:
            try_lock(folder, shared=True)
        except BlockingIOError:
            return recorded or Holder(0, UNKNOWN)
    return None


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of `path`, closed at the end."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_record(descriptor: int, locked: bool) -> None:
    """Name this process in the lock file."""
    pid = os.getpid()
    record = {"pid": pid, "host": socket.gethostname(), "began": process_began(pid), "locked": locked}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def read_record(descriptor: int) -> Holder | None:
    """The process that a lock file names; None where it names none."""
    try:
        record = parse_json(os.pread(descriptor, 4096, 0))
        began, locked = float(record.get("began", 0)), bool(record.get("locked", True))
        return Holder(int(record["pid"]), str(record["host"]), began, locked)
    except (OSError, *WRONG_SHAPE):
        return None


def is_alive(holder: Holder) -> bool:
    """Whether a process that took the run without a lock still has it; one of another machine is believed."""
    if holder.locked:
        return False  # what was held by a lock, on another file system, is held no more
    return holder.host != socket.gethostname() or abs(process_began(holder.pid) - holder.began) < CLOCK_SECONDS


def process_began(pid: int) -> float:
    """When a process of this machine started, in Unix seconds; 0 where there is none of that number."""
    import psutil  # here, for most readers of a run need no such thing

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
