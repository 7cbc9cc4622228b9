"""One trainer to a run: real processes contend for the lock, die, and leave children behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm.run.lock import Holder, RunBusy, RunLock, holder_of

HOLD = """
import sys, time
from pathlib import Path
from llm.run.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from llm.run.lock import RunLock
with RunLock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def start(program: str, path: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_the_second_trainer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    process, _ = start(HOLD, path)
    try:
        with pytest.raises(RunBusy, match=rf"run run is being trained by process {process.pid} on "), RunLock(path):
            pass
        holder = holder_of(path)
        assert holder is not None and holder.pid == process.pid and not holder.is_here
    finally:
        process.kill()
        process.wait()
    assert holder_of(path) is None
    with RunLock(path):
        assert holder_of(path) == Holder(os.getpid(), holder.host)
    assert path.exists(), "the lock file must never be unlinked"


def test_the_lock_dies_with_its_holder_although_a_forked_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process, child = start(HOLD_AND_FORK, path)
    try:
        process.kill()
        process.wait()
        with RunLock(path):
            os.kill(int(child), 0)  # the child is still there, and does not hold the lock
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_looking_who_holds_the_lock_does_not_keep_anybody_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    for _ in range(50):
        with RunLock(path):
            assert holder_of(path) is not None
        assert holder_of(path) is None
