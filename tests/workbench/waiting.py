"""Waiting in tests for a condition, instead of for a length of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen

from workbench.charts.export import strips_of


async def until(
    pilot: Pilot[int], condition: Callable[[], object], seconds: float = 120.0, what: str = "the condition"
) -> None:
    """Let the app run until `condition()` holds; fails after `seconds`."""
    limit = time.monotonic() + seconds
    wait = 0.02
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come true on\n" + shown(pilot.app.screen)
        await pilot.pause(wait)
        wait = min(0.1, wait * 1.3)  # a condition that draws the screen costs what the app needs to make it true


async def until_true(condition: Callable[[], object], what: str = "the condition", seconds: float = 120.0) -> None:
    """Let the event loop run until `condition()` holds, without a pilot; fails after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come true"
        await asyncio.sleep(0.02)


def shown(screen: Screen[Any]) -> str:
    """The characters on the screen, line by line."""
    return "\n".join(strip.text for strip in strips_of(screen))


NOTIFICATIONS: WeakKeyDictionary[App[Any], list[str]] = WeakKeyDictionary()
"""What every app has notified its user of since `record_notifications` was called."""


def record_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the text of every notification: a test may look for one after it has left the screen."""
    notify = App.notify

    def record(app: App[Any], message: str, **options: Any) -> None:
        NOTIFICATIONS.setdefault(app, []).append(message)
        notify(app, message, **options)

    monkeypatch.setattr(App, "notify", record)


def notifications(app: App[Any]) -> list[str]:
    """The texts of all notifications so far, the oldest first."""
    return list(NOTIFICATIONS.get(app, ()))


def was_notified(app: App[Any], words: str) -> bool:
    """Whether one of the notifications so far contains `words`."""
    return any(words in text for text in notifications(app))
