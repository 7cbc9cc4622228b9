"""Tracking a training from a separate process: `runs export --follow`.

The packages take seconds to import and write at any time; in another process they cannot slow a step or end a
training. The process reads the event log until its stdin is closed, which also happens if the trainer is killed. It
stays in the trainer's session: Linux compares the niceness of processes only within a session (sched(7), autogroups).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llm.run import Run
from workbench.trackers.follower import Follower

POLL_SECONDS = 1.0
END_SECONDS = 120.0
"""How long the end of a training waits for the trackers; W&B uploads what is left."""
NICENESS = 19


@contextmanager
def tracking(run: Run, home: Path, names: Sequence[str], say: Callable[[str], object]) -> Iterator[None]:
    """Track `run` while the block trains it; nothing without `names`."""
    if not names:
        yield
        return
    words = ["--home", str(home), "runs", "export", run.name, "--to", ",".join(names), "--follow"]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=0,  # ctrl+c is for the trainer
        )
    except OSError as error:
        say(f"warning: tracking could not be started ({error.strerror}); export the run later with runs export.")
        yield
        return
    os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)  # before its imports, which take two seconds of CPU time
    try:
        yield
    finally:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"the trackers of {run.name} are still writing, in process {process.pid}.")


def follow(follower: Follower) -> None:
    """Hand on what a training logs until stdin is closed."""
    while not select.select([sys.stdin], [], [], POLL_SECONDS)[0] or os.read(sys.stdin.fileno(), 1 << 10):
        follower.poll()
    follower.poll()
    follower.close(with_unsaved=False)
