"""Locks that somebody removes, that cannot be written, or that the file system does not have."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm.config import RunConfig
from llm.data.text.download import lock_partial
from llm.data.tokens.staging import make_locked_folder, remove_leftovers
from llm.events import Warned
from llm.run import Run, list_runs
from llm.run.lock import RunBusy, RunLock, holder_of
from llm.training.run import run_training
from tests.conftest import tiny_config
from workbench.train.queue import RunQueue

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from llm.run.lock import RunLock

def no_locks(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

if sys.argv[2] == "none":
    fcntl.flock = no_locks
with RunLock(Path(sys.argv[1])) as lock:
    print("held", flush=True)
    for line in sys.stdin:
        lock.renew()
        print("renewed", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


class Holding:
    """A process that holds the lock of `folder` until it is killed or its input ends."""

    def __init__(self, folder: Path, locks: str = "flock") -> None:
        command = [sys.executable, "-c", HOLD, str(folder / "lock"), locks]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "held\n"

    def renew(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "renewed\n"

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_removed_lock_file_lets_no_second_trainer_in(folder: Path) -> None:
    with Holding(folder) as first:
        (folder / "lock").unlink()
        assert holder_of(folder / "lock") is not None
        for _ in range(2):  # the second time there is a new file, which nobody has locked
            with pytest.raises(RunBusy, match="run run is being trained by another process; stop it"):
                RunLock(folder / "lock").__enter__()
        first.renew()
        holder = holder_of(folder / "lock")
        assert holder is not None and holder.pid == first.process.pid
    with RunLock(folder / "lock"):
        pass


@pytest.fixture
def read_only(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The same folder, where it may not be written."""
    view = tmp_path / "view"
    view.mkdir()
    if subprocess.run(["mount", "--bind", str(folder), str(view)], capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        yield view
    finally:
        subprocess.run(["umount", "--lazy", str(view)], check=True)


def test_a_holder_is_known_where_nothing_can_be_written(folder: Path, read_only: Path) -> None:
    with Holding(folder) as first:
        holder = holder_of(read_only / "lock")
        assert holder is not None and holder.pid == first.process.pid
    assert holder_of(read_only / "lock") is None


@pytest.fixture(params=["ENOSYS", "EOPNOTSUPP", "EBADF"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks: what flock answers on Lustre, on some FUSE and on some NFS."""
    number = getattr(errno, request.param)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_record_keeps_trainers_apart(folder: Path) -> None:
    path = folder / "lock"
    assert holder_of(path) is None
    with Holding(folder, "none") as first:
        holder = holder_of(path)
        assert holder is not None and holder.pid == first.process.pid
        with pytest.raises(RunBusy, match=rf"process {first.process.pid} on .*; stop it first or, if it has ended"):
            RunLock(path).__enter__()
    assert holder_of(path) is None, "its process is gone"
    with RunLock(path) as lock:
        assert not lock.has_locks and (holder := holder_of(path)) is not None and holder.is_here
    assert path.read_bytes() == b""
    path.write_text('{"pid": 1, "host": "elsewhere", "began": 5.0, "locked": false}')
    with pytest.raises(RunBusy, match=rf"process 1 on elsewhere; .* delete {path}"):
        RunLock(path).__enter__()
    path.write_text(f'{{"pid": {os.getppid()}, "host": "{socket.gethostname()}"}}')  # as locks leave it
    assert holder_of(path) is None


@pytest.mark.usefixtures("no_locks")
def test_everything_works_without_locks_with_one_warning(home: Path, corpus: Path) -> None:
    run = Run.create(home, "no-locks-1", tiny_config(corpus))
    RunQueue(home).add(run)
    assert RunQueue(home).names() == ["no-locks-1"]
    assert run_training(run, home).status == "finished"
    (warning,) = [event.message for event in run.events() if isinstance(event, Warned) and "locks" in event.message]
    assert "two trainers of one run cannot be prevented reliably" in warning
    assert run.holder() is None and run.status().name == "finished"
    with lock_partial(home / "datasets" / "partial"):
        pass
    staging, lock = make_locked_folder(home / "data" / "new")
    os.close(lock)
    remove_leftovers(home / "data")
    assert staging.exists(), "it may be in the making"
    os.utime(staging, (0, 0))
    remove_leftovers(home / "data")
    assert not staging.exists()


def test_starts_that_choose_the_same_free_name_get_one_each(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: Run.create_numbered(home, "twin", RunConfig()), range(16)))
    assert len({run.name for run in runs}) == 16
    assert {run.name for run in list_runs(home)} == {f"twin-{number}" for number in range(1, 17)}
