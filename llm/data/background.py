"""Work on a second thread, with progress; the caller can cancel it at any time."""

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


class Canceled(Exception):
    """Raised inside the function, at its next report, after the caller canceled."""


def run_in_background(
    work: Callable[[Report], T], stage: str, total: float = 0.0, unit: str = "MB"
) -> Generator[Progress, None, T]:
    """Returns work(report), yielding Progress about ten times a second. `report(done)` sets the progress.

    Closing the generator makes the next `report` raise Canceled, and waits for the thread.
    """
    done = 0.0
    result: list[T] = []
    failure: list[BaseException] = []
    canceled = threading.Event()

    def report(now_done: float) -> None:
        nonlocal done
        done = now_done
        if canceled.is_set():
            raise Canceled

    def run() -> None:
        try:
            result.append(work(report))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name=stage, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield progress(stage, done, total, unit)
            thread.join(POLL_SECONDS)
    finally:
        canceled.set()
        thread.join()
    if failure:
        raise failure[0]
    yield progress(stage, total or done, total, unit)
    return result[0]


def iterate_in_thread(source: Generator[T, None, None]) -> Generator[T | None, None, None]:
    """The items of `source`, computed on a thread; None several times a second while waiting.

    After closing this generator, the thread closes `source` when the current item arrives.
    """
    found: queue.Queue[tuple[T] | BaseException | None] = queue.Queue()
    requested, closed = threading.Semaphore(0), threading.Event()

    def run() -> None:
        try:
            with closing(source):
                for item in source:
                    found.put((item,))
                    requested.acquire()
                    if closed.is_set():
                        return
            found.put(None)
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            found.put(error)

    threading.Thread(target=run, name="iterate", daemon=True).start()
    try:
        while True:
            try:
                item = found.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            requested.release()
    finally:
        closed.set()
        requested.release()


def count_megabytes(report: Report) -> Callable[[int], None]:
    """A function that takes sizes in bytes and reports their sum in megabytes."""
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        report(done / 1e6)

    return advance


def progress(stage: str, done: float, total: float, unit: str = "MB") -> Progress:
    """A Progress event with `done` limited to `total`, which may be an estimate (0: unknown)."""
    return Progress(stage=stage, done=min(done, total) if total else done, total=total, unit=unit)
