"""Keep the app running after an error in one handler.

Textual ends the app at the first exception in any handler, timer, worker or drawing, and the widget whose handler
failed handles nothing any more. Here such an error is written to the log and shown in a toast, and the app continues.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from textual.app import App
from textual.message import Message
from textual.message_pump import MessagePump
from textual.worker import WorkerFailed

from workbench.terminal import write_log

QUIET_SECONDS = 10.0
"""Drawing that fails does so at every attempt: in this time, only the first error of a kind is reported."""


@dataclass
class FaultLog:
    """Writes errors to the log, each kind at most once every `QUIET_SECONDS`, and counts the others."""

    _written: dict[tuple[str, str, int], float] = field(default_factory=dict)
    _left_out: dict[tuple[str, str, int], int] = field(default_factory=dict)
    _shown: float = float("-inf")

    def write(self, error: BaseException) -> bool:
        """Write `error` with its traceback; returns whether to notify the user."""
        cause = cause_of(error)
        kind, now = kind_of(cause), time.monotonic()
        if now - self._written.get(kind, float("-inf")) < QUIET_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._written[kind] = now
        if count := self._left_out.pop(kind, 0):
            write_log(f"The next error occurred {count} more times since.\n")
        write_log("".join(traceback.format_exception(cause)))
        if now - self._shown < QUIET_SECONDS:
            return False
        self._shown = now
        return True


def cause_of(error: BaseException) -> BaseException:
    """The error itself, or that of a failed worker."""
    return error.error if isinstance(error, WorkerFailed) else error


def kind_of(error: BaseException) -> tuple[str, str, int]:
    """What identifies an error: its class, and the file and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__, frames[-1].filename if frames else "", (frames[-1].lineno or 0) if frames else 0


@contextmanager
def errors_contained() -> Iterator[None]:
    """In this block, an error in a handler of a mounted app goes to `App._handle_exception`, and the widget continues
    to handle messages; Textual's own loop would stop."""
    dispatch = MessagePump._dispatch_message

    async def dispatch_message(pump: MessagePump, message: Message) -> None:
        try:
            await dispatch(pump, message)
        except Exception as error:
            if not is_up(pump.app):
                raise
            pump.app._handle_exception(error)

    pumps: Any = MessagePump
    pumps._dispatch_message = dispatch_message
    try:
        yield
    finally:
        pumps._dispatch_message = dispatch


def is_up(app: App[Any]) -> bool:
    """Whether the app has started, and has not begun to end."""
    return app._running and app._is_mounted and not app._exit
