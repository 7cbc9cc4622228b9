"""Lists with the keys of a pager."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import OptionList

BESIDE = "auto 80%"
"""The style of what an entry says besides its name: black or white, whichever can be read there, also when marked."""


def moves(down: str, up: str, first: str, last: str) -> list[BindingType]:
    """The keys of a pager, for a list whose actions have these names."""
    return [
        Binding("j", down, "Down", id="list.down", show=False),
        Binding("k", up, "Up", id="list.up", show=False),
        Binding("g", first, "First", id="list.first", show=False),
        Binding("G", last, "Last", id="list.last", show=False),
    ]


class SafeList(OptionList):
    """A list that may be paged before it is laid out and where no line of it fits, and clicked where an option is gone,
    at which Textual 8.2 raises."""

    async def _on_click(self, event: events.Click) -> None:
        """Take what was clicked, unless it has gone since it was drawn."""
        if (event.style.meta.get("option") or 0) >= self.option_count:
            event.prevent_default()

    def action_page_up(self) -> None:
        """Move the mark up by a page, or by one where no page is known."""
        if self.highlighted is None:
            self.action_first()
        elif self._has_pages:
            self._move_page(-1)
        else:
            self.action_cursor_up()

    def action_page_down(self) -> None:
        """Move the mark down by a page, or by one where no page is known."""
        if self.highlighted is None:
            self.action_last()
        elif self._has_pages:
            self._move_page(1)
        else:
            self.action_cursor_down()

    @property
    def _has_pages(self) -> bool:
        """Whether every option has its place, and a page has lines."""
        return self.highlighted in self._index_to_line and self.scrollable_content_region.height > 0


class ChoiceList(SafeList):
    """A list to choose one thing from, with the keys of a pager."""

    BINDINGS: ClassVar[list[BindingType]] = moves("cursor_down", "cursor_up", "first", "last")

    def on_resize(self) -> None:
        """What is marked stays in sight in a list that has become smaller."""
        self.call_after_refresh(self.scroll_to_highlight)
