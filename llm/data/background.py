"""Run a function on a thread and yield its progress meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from llm.events import Progress

T = TypeVar("T")
POLL_SECONDS = 0.1


class Abandoned(Exception):
    """Raised inside the function, at its next report, when nobody waits for its result any more."""


def in_background(
    work: Callable[[Callable[[int], None]], T], stage: str, total_bytes: int = 0
) -> Generator[Progress, None, T]:
    """Returns work(advance), yielding Progress about ten times a second. `advance(n)` says that n more bytes are done.

    Closing the generator makes the next `advance` raise Abandoned, and waits for the thread.
    """
    done = 0
    result: list[T] = []
    failure: list[BaseException] = []
    abandoned = threading.Event()

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if abandoned.is_set():
            raise Abandoned

    def run() -> None:
        try:
            result.append(work(advance))
        except BaseException as error:  # noqa: BLE001  raised again below, in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name=stage, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield megabytes(stage, done, total_bytes)
            thread.join(POLL_SECONDS)
    finally:
        abandoned.set()
        thread.join()
    if failure:
        raise failure[0]
    yield megabytes(stage, total_bytes or done, total_bytes)
    return result[0]


def megabytes(stage: str, done: int, total: int) -> Progress:
    """Progress in megabytes; never more than the total, which is an estimate."""
    return Progress(stage=stage, done=(min(done, total) if total else done) / 1e6, total=total / 1e6, unit="MB")
