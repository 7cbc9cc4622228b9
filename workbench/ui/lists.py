"""Lists with pager keys."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from workbench.text import clean

DETAIL = "auto 80%"
"""The style of the text after the name of an entry: black or white, whichever is legible."""


def moves(down: str, up: str, first: str, last: str) -> list[BindingType]:
    """Pager keys for a list whose actions have these names."""
    return [
        Binding("j", down, "Down", id="list.down", show=False),
        Binding("k", up, "Up", id="list.up", show=False),
        Binding("g", first, "First", id="list.first", show=False),
        Binding("G", last, "Last", id="list.last", show=False),
    ]


def with_headings(entries: Iterable[tuple[str, Option]]) -> list[Option]:
    """The options of (group, option), with a heading before each group. A group must be consecutive."""
    options: list[Option] = []
    for group, members in groupby(entries, key=itemgetter(0)):
        options.append(Option(Content.styled(clean(group), "bold $text-accent"), disabled=True))
        options += [option for _, option in members]
    return options


class SafeList(OptionList):
    """A list that may be paged before it has a layout and clicked where an option was removed: Textual 8.2 raises."""

    async def _on_click(self, event: events.Click) -> None:
        """Ignore a click on an option that was removed after it was drawn."""
        if (event.style.meta.get("option") or 0) >= self.option_count:
            event.prevent_default()

    def action_page_up(self) -> None:
        """Move up by a page, or by a line before the list has a layout."""
        if self.highlighted is None:
            self.action_first()
        elif self._has_pages:
            self._move_page(-1)
        else:
            self.action_cursor_up()

    def action_page_down(self) -> None:
        """Move down by a page, or by a line before the list has a layout."""
        if self.highlighted is None:
            self.action_last()
        elif self._has_pages:
            self._move_page(1)
        else:
            self.action_cursor_down()

    @property
    def _has_pages(self) -> bool:
        """Whether the list has a layout."""
        return self.highlighted in self._index_to_line and self.scrollable_content_region.height > 0


class ChoiceList(SafeList):
    """A list to choose from, with pager keys."""

    BINDINGS: ClassVar[list[BindingType]] = moves("cursor_down", "cursor_up", "first", "last")

    def on_resize(self) -> None:
        """Keep the selection in view when the list shrinks."""
        self.call_after_refresh(self.scroll_to_highlight)
