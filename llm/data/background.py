"""Work on a thread beside the one that waits for it, which can give up waiting at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
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


def beside(source: Generator[T, None, None]) -> Generator[T | None, None, None]:
    """The items of `source`, each waited for on a thread; None several times a second while there is none.

    Closing this leaves the thread to itself: it closes `source` once the item it waits for has come.
    """
    found: queue.Queue[tuple[T] | BaseException | None] = queue.Queue()
    wanted, left = threading.Semaphore(0), threading.Event()

    def run() -> None:
        try:
            with closing(source):
                for item in source:
                    found.put((item,))
                    wanted.acquire()
                    if left.is_set():
                        return
            found.put(None)
        except BaseException as error:  # noqa: BLE001  raised again below, in the thread that waits
            found.put(error)

    threading.Thread(target=run, name="beside", daemon=True).start()
    try:
        while True:
            try:
                came = found.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if came is None:
                return
            if isinstance(came, BaseException):
                raise came
            yield came[0]
            wanted.release()
    finally:
        left.set()
        wanted.release()


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
