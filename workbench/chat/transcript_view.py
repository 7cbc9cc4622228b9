"""A view of a long text that grows at its end. Appending costs time in proportion to the new text only.

The display is cleaned for the terminal; copying returns the original text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

from rich.cells import get_character_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from workbench.text import clean
from workbench.ui.lists import moves

TAB = 4
STYLES = ("prompt", "reply", "label", "note", "error", "chosen", "differs", "far-1", "far-2", "far-3")


def wrap(text: str, start: int, width: int) -> Iterator[tuple[int, int]]:
    """Rows (start, end) of `text` from `start` on, at most `width` cells each: broken after spaces, or inside a word
    longer than a row. A line break ends its row and belongs to it. Text that ends with one has a last empty row."""
    width = max(1, width)
    row, used, space = start, 0, start
    for index in range(start, len(text)):
        character = text[index]
        if character == "\n":
            yield row, index + 1
            row, used, space = index + 1, 0, index + 1
            continue
        cells = cell_width(character)
        while used + cells > width and index > row and character != " ":
            end = space if space > row else index
            yield row, end
            used = sum(cell_width(one) for one in text[end:index])
            row = space = end
        used += cells
        if character in " \t":
            space = index + 1
    yield row, len(text)


def cell_width(character: str) -> int:
    """The width of a cleaned character in cells."""
    return TAB if character == "\t" else get_character_cell_size(character)


class Transcript(ScrollView, can_focus=True):
    """Text in a few named styles. It follows the end of the text unless the user has scrolled up."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"transcript--{name}" for name in STYLES}
    DEFAULT_CSS = """
    Transcript {
        height: 1fr; padding: 0 1; overflow-y: scroll; overflow-x: hidden; scrollbar-size-vertical: 1;
        .transcript--prompt { color: $accent; }
        .transcript--reply { color: $foreground; }
        .transcript--label { color: $primary; text-style: bold; }
        .transcript--note { color: $foreground 60%; }
        .transcript--error { color: $error; }
        .transcript--chosen { color: $foreground; background: $primary 30%; }
        .transcript--far-1 { background: $warning 15%; }
        .transcript--far-2 { background: $warning 35%; }
        .transcript--far-3 { background: $error 45%; }
        .transcript--differs { color: $error; text-style: bold underline; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = moves("scroll_down", "scroll_up", "scroll_home", "scroll_end")

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._text = ""
        self._shown = ""
        self._style_starts: list[int] = [0]
        self._style_names: list[str] = ["reply"]
        self._rows: list[tuple[int, int]] = []
        self._wrapped_at = 0
        self._following = True  # set by scrolling only: a resize moves the end, too

    @property
    def text(self) -> str:
        """The original text."""
        return self._text

    @property
    def shown_text(self) -> str:
        """The text as displayed: visible control characters, before wrapping."""
        return self._shown

    def write(self, text: str, style: str = "reply") -> None:
        """Append `text` in one of STYLES."""
        if not text:
            return
        if self._style_names[-1] != style:
            self._style_starts.append(len(self._text))
            self._style_names.append(style)
        self._text += text
        self._shown += clean(text)
        self._show_growth()

    def cut(self, length: int) -> None:
        """Keep only the first `length` characters."""
        self._text, self._shown = self._text[:length], self._shown[:length]
        keep = max(1, bisect_right(self._style_starts, length - 1))
        del self._style_starts[keep:], self._style_names[keep:]
        self._rewrap()

    def show_place(self, place: int) -> None:
        """Scroll to the character at `place`."""
        row = bisect_right(self._rows, place, key=lambda one: one[0]) - 1
        if not 0 <= row - self.scroll_offset.y < self.size.height:
            self.scroll_to(y=max(0, row), animate=False, immediate=True)

    def _show_growth(self) -> None:
        if not self._wrapped_at:  # before the first layout
            return
        first = self._rows.pop()[0] if self._rows else 0
        before = len(self._rows)
        self._rows.extend(wrap(self._shown, first, self._width))
        self._set_height()
        if before - self.scroll_offset.y <= self.size.height:
            self.refresh()

    @property
    def _width(self) -> int:
        return max(1, self.scrollable_content_region.width)

    def _rewrap(self) -> None:
        self._wrapped_at = self._width
        self._rows = list(wrap(self._shown, 0, self._width)) if self._shown else []
        self._set_height()
        self.refresh()

    def _set_height(self) -> None:
        following = self._following
        self.virtual_size = Size(self._width, len(self._rows))
        if following:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._following = self.is_vertical_scroll_end

    def on_resize(self) -> None:
        if self._width != self._wrapped_at:
            self._rewrap()
        elif self._following:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    # Drawing

    def render_line(self, y: int) -> Strip:
        number = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        if number >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        start, end = self._rows[number]
        segments: list[Segment] = []
        for first, stop, style in self._pieces(start, end, number):
            segments.append(Segment(self._shown[first:stop].rstrip("\n").replace("\t", " " * TAB), style))
        strip = Strip(segments).apply_offsets(0, number)
        return strip.adjust_cell_length(width, self.rich_style)

    def _pieces(self, start: int, end: int, number: int) -> Iterator[tuple[int, int, Style]]:
        """The row as (start, end, style), including the selection."""
        selected = self.text_selection.get_span(number) if self.text_selection is not None else None
        borders = {start, end}
        if selected is not None:
            low, high = selected
            marked = (self._place(number, low), end if high == -1 else self._place(number, high))
            borders |= set(marked)
        first = bisect_right(self._style_starts, start) - 1
        borders |= {place for place in self._style_starts[first:] if start < place < end}
        places = sorted(borders)
        for low, high in pairwise(places):
            name = self._style_names[bisect_right(self._style_starts, low) - 1]
            style = self.get_component_rich_style(f"transcript--{name}")
            if selected is not None and marked[0] <= low < marked[1]:
                style += self.screen.get_component_rich_style("screen--selection")
            yield low, high, style

    # Copying

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The original text of a selection, without the line breaks of wrapping."""
        if not self._rows:
            return None
        start = 0 if selection.start is None else self._place(selection.start.y, selection.start.x)
        end = len(self._text) if selection.end is None else self._place(selection.end.y, selection.end.x)
        return self._text[start:end], "\n"

    def _place(self, row: int, column: int) -> int:
        """The index of the character at a row and column of the display."""
        if row >= len(self._rows):
            return len(self._text)
        start, end = self._rows[max(0, row)]
        for place in range(start, end):
            if column <= 0:
                return place
            column -= TAB if self._shown[place] == "\t" else 1
        return end

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()
