"""Run generators that yield items, such as progress, and return a result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def drain(work: Generator[Item, None, Result], use: Callable[[Item], object] = lambda item: None) -> Result:
    """Pass every item to `use`; the result."""
    while True:
        try:
            use(next(work))
        except StopIteration as end:
            result: Result = end.value
            return result


def until_stopped(
    work: Generator[Item, None, Result], should_stop: Callable[[], bool]
) -> Generator[Item, None, Result | None]:
    """The items of `work` and its result; or None, and `work` is closed, once `should_stop` is true."""
    with closing(work):
        while not should_stop():
            try:
                yield next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
    return None
