"""Who trains a run: an advisory lock that dies with its holder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llm.errors import UserError
from llm.reader import WRONG_SHAPE, parse_json

OWN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK
"""Open a lock only where it lies, and never wait: a link would have another file overwritten, a FIFO would hang."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's lock."""

    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether the holder is this very process."""
        return self.pid == os.getpid() and self.host == socket.gethostname()


class RunBusy(UserError):
    """Another process trains this run."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        who = f"process {holder.pid} on {holder.host}" if holder else "another process"
        super().__init__(f"run {path.parent.name} is being trained by {who}; stop it there first, or fork the run.")
        self.holder = holder


class RunLock:
    """flock on `<run>/lock`, which is never unlinked: unlinking would let two holders lock two different files.

    The descriptor is closed in forked children (and on exec, as Python does by default), since an inherited one would
    keep the lock alive after its holder died.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def __enter__(self) -> RunLock:
        record = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | OWN_FILE, 0o644)
            if not self._acquired():
                raise RunBusy(self.path, holder_of(self.path))
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, record, 0)
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
        self._close()

    def _acquired(self) -> bool:
        """Whether the lock was got; tried for a second, since `holder_of` takes it for a moment to look."""
        for _ in range(20):
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return True
        return False

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _close_in_child(reference: weakref.ref[RunLock]) -> None:
    lock = reference()
    if lock is not None:
        lock._close()


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock file `path`, or None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | OWN_FILE)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _recorded_holder(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _recorded_holder(descriptor: int) -> Holder:
    try:
        record = parse_json(os.pread(descriptor, 4096, 0))
        return Holder(int(record["pid"]), str(record["host"]))
    except (OSError, *WRONG_SHAPE):
        return Holder(0, "unknown host")  # taken this instant; its holder has not written its name yet
