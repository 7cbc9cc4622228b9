"""Start and end several ranks as real processes under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psutil

from llm.events import Event, StepLogged
from llm.run import Run

SETTINGS = {
    "train__accumulation": "1",
    "train__total_batch_tokens": str(4 * 2 * 16),
    "model__dropout": "0",
    "evaluate__at_start": "false",
    "evaluate__every": "0",
    "sample__every": "0",
    "train__steps": "100000",
    "checkpoint__every": "100000",
}
"""A run that does not end by itself, and saves only when it is stopped."""


def torchrun(run: Run, ranks: int, *flags: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Train `run` on `ranks` processes; `launcher` are further flags of torchrun, `flags` those of the run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *launcher]
    return subprocess.Popen(
        [*command, "-m", "llm.train", str(run.path), *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[bytes], seconds: float = 180) -> str:
    """Wait for the end of torchrun; what it and its ranks printed."""
    said, _ = process.communicate(timeout=seconds)
    return said.decode()


@contextmanager
def running(run: Run, ranks: int, step: int = 5, **options: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with its ranks past `step`; ended with the block if it still runs."""
    process = torchrun(run, ranks, **options)
    pids: list[int] = []
    try:
        wait_for_step(run, step, process)
        pids = [child.pid for child in psutil.Process(process.pid).children()]
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        for pid in pids:  # orphans, where torchrun itself was killed
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()


def wait_for_step(run: Run, step: int, ranks: subprocess.Popen[bytes] | Future[Any], seconds: float = 300) -> None:
    tail, deadline = run.tail(), time.monotonic() + seconds
    while not any(isinstance(event, StepLogged) and event.step >= step for event in tail.poll()):
        have_ended = ranks.done() if isinstance(ranks, Future) else ranks.poll() is not None
        assert not have_ended and time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.01)


def rank_processes(run: Run, process: subprocess.Popen[bytes]) -> tuple[psutil.Process, list[psutil.Process]]:
    """The process of rank 0, which holds the lock, and those of the other ranks."""
    holder = run.holder()
    assert holder is not None
    children = psutil.Process(process.pid).children()
    first = next(child for child in children if child.pid == holder.pid)
    return first, [child for child in children if child.pid != holder.pid]


def last_event(run: Run) -> Event:
    return list(run.events())[-1]
