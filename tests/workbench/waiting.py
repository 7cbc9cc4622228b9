"""Waiting in tests for a condition, instead of for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot
from textual.screen import Screen

from workbench.services.pictures import strips_of


async def until(pilot: Pilot[int], condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Let the app run until `condition()` holds; fails after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true on\n" + shown(pilot.app.screen)
        await pilot.pause(0.02)


def shown(screen: Screen[Any]) -> str:
    """The characters on the screen, line by line."""
    return "\n".join(strip.text for strip in strips_of(screen))
