"""Run a function on a thread and yield its progress meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from llm.events import Progress

T = TypeVar("T")
Report: TypeAlias = "Callable[[float], None]"
POLL_SECONDS = 0.1


class Abandoned(Exception):
    """Raised inside the function, at its next report, when nobody waits for its result any more."""


def in_background(
    work: Callable[[Report], T], stage: str, total: float = 0.0, unit: str = "MB"
) -> Generator[Progress, None, T]:
    """Returns work(report), yielding Progress about ten times a second. `report(done)` says how far the work is.

    Closing the generator makes the next `report` raise Abandoned, and waits for the thread.
    """
    done = 0.0
    result: list[T] = []
    failure: list[BaseException] = []
    abandoned = threading.Event()

    def report(now_done: float) -> None:
        nonlocal done
        done = now_done
        if abandoned.is_set():
            raise Abandoned

    def run() -> None:
        try:
            result.append(work(report))
        except BaseException as error:  # noqa: BLE001  raised again below, in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name=stage, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield progress(stage, done, total, unit)
            thread.join(POLL_SECONDS)
    finally:
        abandoned.set()
        thread.join()
    if failure:
        raise failure[0]
    yield progress(stage, total or done, total, unit)
    return result[0]


def summed(report: Report) -> Callable[[int], None]:
    """A function that takes sizes in bytes, one after another, and reports their sum in megabytes."""
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        report(done / 1e6)

    return advance


def progress(stage: str, done: float, total: float, unit: str = "MB") -> Progress:
    """An event in which `done` never passes `total`, which may be an estimate (0: unknown)."""
    return Progress(stage=stage, done=min(done, total) if total else done, total=total, unit=unit)
