"""What esc does on the Chat screen: stop or cancel what is in progress, else move between prompt and conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

Way = Literal["stop", "cancel send", "cancel edit", "cancel correction", "conversation", "prompt"]


class Exit(NamedTuple):
    """One meaning of esc: `act`, while `is_due`."""

    way: Way
    is_due: Callable[[], bool]
    act: Callable[[], object]


class Escape:
    """Several exits, of which the first that is due counts; the last one always is."""

    def __init__(self, *exits: Exit) -> None:
        self._exits = exits

    @property
    def way(self) -> Way:
        """What esc does now."""
        return next(exit.way for exit in self._exits if exit.is_due())

    def leave(self) -> None:
        """Do it."""
        next(exit.act for exit in self._exits if exit.is_due())()
