"""Running a generator of progress to its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def result_of(work: Generator[Any, None, Result]) -> Result:
    """What the generator returns, whatever it yields on the way."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
