"""Computing the next values of a function of an integer on a thread, while the current one is in use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1


class Prefetcher(Generic[T]):
    """Computes function(start), function(start + 1), … at most `depth` ahead, on a daemon thread.

    An exception of the function is raised by the `get` for its value and by every later one. The function must not
    use torch: a second thread with an OpenMP pool slows the trainer.
    """

    def __init__(self, function: Callable[[int], T], start: int, depth: int = 2) -> None:
        self._function = function
        self._next = start
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(start,), name="prefetch", daemon=True)
        self._thread.start()

    def get(self, i: int) -> T:
        """function(i); i must count up from `start` by one. Waits for the value."""
        if self._closed.is_set():
            raise RuntimeError("the prefetcher is closed")
        if i != self._next:
            raise ValueError(f"asked for {i}, but {self._next} comes next")
        if self._failure is None:
            value, self._failure = self._queue.get()
        if self._failure is not None:
            raise self._failure
        self._next += 1
        return value  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread and wait for it. Values computed ahead are dropped."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, i: int) -> None:
        while not self._closed.is_set():
            try:
                item: tuple[T | None, BaseException | None] = (self._function(i), None)
            except BaseException as error:  # noqa: BLE001  raised in the thread of the consumer
                item = (None, error)
            self._put(item)
            if item[1] is not None:
                return
            i += 1

    def _put(self, item: tuple[T | None, BaseException | None]) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            break
