"""Windows that close once.

A second Enter or Escape is often queued before the first one has closed its window. Textual then closes the window in
front instead, and sends keys, clicks and results to a window without widgets.
"""

from __future__ import annotations

import asyncio

from textual.app import App, ScreenStackError
from textual.await_complete import AwaitComplete
from textual.css.query import NoMatches
from textual.events import Compose, Mount
from textual.message import Message
from textual.message_pump import MessagePump
from textual.messages import CloseMessages
from textual.screen import Screen, ScreenResultType
from textual.widget import MountError


class ClosesOnce(Screen[ScreenResultType]):
    """A screen that closes only while it is in front, and handles no messages afterwards. It must not be the first base
    of a class: Textual looks for styles in the first one only."""

    is_closed = False
    """Whether it has been dismissed."""

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Close the window with a result. Does nothing if another is in front of it, or if it has been closed."""
        if self.is_closed or not self.is_active:
            return AwaitComplete(asyncio.sleep(0))
        self.is_closed = True
        return super().dismiss(result)

    @property
    def is_attached(self) -> bool:
        """Whether it is open; threads and timers check it before they update the screen."""
        return not self.is_closed and super().is_attached

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only closing is possible before the window has its widgets, and nothing after it has closed: the app may
        have looked up the action of a key in it before."""
        if self.is_closed or not (self.children or action == "dismiss"):
            return False
        return super().check_action(action, parameters)

    async def _dispatch_message(self, message: Message) -> None:
        """Handle a message; after closing, only those that Textual needs to remove the window."""
        if not (self.is_closed and is_for_open_windows(message)):
            await super()._dispatch_message(message)


def is_for_open_windows(message: Message) -> bool:
    """Whether `message` is only for open windows: composing, mounting, and all that bubble (keys, clicks, messages of
    widgets)."""
    return isinstance(message, Compose | Mount) or (message.bubble and not isinstance(message, CloseMessages))


def is_aftermath(error: BaseException, pump: MessagePump | None) -> bool:
    """Whether `error` is about a missing widget or screen, because the window of `pump` or the app is closed."""
    if not isinstance(error, NoMatches | MountError | ScreenStackError):
        return False
    node = pump
    while node is not None and not isinstance(node, App):
        if isinstance(node, ClosesOnce) and node.is_closed:
            return True
        node = node._parent
    return pump is not None and (node is None or node._exit or not node._running)
