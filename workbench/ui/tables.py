"""A table that is updated in place: the cursor stays on its row, and only changed cells are updated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.binding import BindingType
from textual.widgets import DataTable

from workbench.ui.lists import moves

Row = tuple[str, Sequence[Text]]
"""The key of a row, and its cells."""


ROWS_AT_ONCE = 200
BAR = 1
"""The width of the scroll bar."""
PADDING = 2
"""The padding of a column, both sides together."""


@dataclass(frozen=True)
class Heading:
    """A column: its key, its label, and its width in cells."""

    key: str
    label: str
    width: int


def widths_that_fit(
    natural: Mapping[str, int], room: int, wanted: Collection[str], least: Mapping[str, int]
) -> dict[str, int]:
    """The columns that fit into `room` cells with their widths, in the order of `natural` (their full widths).

    `wanted` lists the most important first; those in `least` may be cut to that width, and share the remaining room.
    """
    chosen: dict[str, int] = {}
    for key in wanted:
        width = min(natural[key], least.get(key, natural[key]))
        if width + PADDING <= room or not chosen:
            chosen[key] = width
            room -= width + PADDING
    for key in least:
        if key in chosen:
            more = min(natural[key] - chosen[key], max(0, room))
            chosen[key] += more
            room -= more
    return {key: chosen[key] for key in natural if key in chosen}


def cut(cell: Text, width: int, *, at_start: bool = False) -> Text:
    """A cell of at most `width`, cut at its end or at its start with …."""
    if cell.cell_len <= width:
        return cell
    if not at_start:
        cell = cell.copy()
        cell.truncate(width, overflow="ellipsis")
        return cell
    text = cell.plain
    while cell_len(text) >= width:
        text = text[1:]
    return Text(set_cell_size("…" + text, width), style=cell.style, no_wrap=True)


def cut_in_middle(cell: Text, width: int) -> Text:
    """A cell of at most `width`, cut in the middle with …, since names often differ at the end."""
    if cell.cell_len <= width:
        return cell
    count = len(cell)
    while cell_len(cell.plain[len(cell) - count :]) > width // 2:
        count -= 1
    start, end = cell.copy(), cell[len(cell) - count :]
    start.truncate(width - end.cell_len, overflow="ellipsis")
    return start.append_text(end)


def row_keys(rows: Sequence[Row]) -> list[str]:
    return [key for key, _ in rows]


class LiveTable(DataTable[Text]):
    """A `DataTable` of rows with pager keys; the arrow keys scroll to what is cut off at the right."""

    DEFAULT_CSS = "LiveTable { scrollbar-size-horizontal: 0; }"

    BINDINGS: ClassVar[list[BindingType]] = moves("cursor_down", "cursor_up", "scroll_top", "scroll_bottom")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._headings: list[Heading] = []
        self._rows: list[Row] = []
        """The rows in the table. Of many rows, the last ones are added in parts, so that no key waits for them."""
        self._pending: list[Row] = []

    @property
    def current(self) -> str:
        """The key of the row under the cursor, or ""."""
        return self._rows[self.cursor_row][0] if 0 <= self.cursor_row < len(self._rows) else ""

    @property
    def keys(self) -> list[str]:
        """The keys of the rows in the table, from the top."""
        return row_keys(self._rows)

    def show_rows(self, rows: Sequence[Row], headings: Sequence[Heading] | None = None) -> None:
        """Show exactly these rows. The cursor stays on its key, or near its position if that row is gone. `headings`
        are the columns, if they depend on the rows or on the width."""
        new = list(rows)
        known = dict(self._rows)
        if headings is not None and list(headings) != self._headings:
            self._headings = list(headings)
            self._rebuild(new, with_columns=True)
            return
        if self._pending and row_keys(new) == row_keys(self._rows + self._pending):
            self._pending = new[len(known) :]
            del new[len(known) :]
            self._update_cells(new, known)
        elif not self._pending and len(known) == len(new) and all(key in known for key, _ in new):
            self._update_cells(new, known)
            if row_keys(new) != row_keys(self._rows):
                self._reorder(new)
        else:
            self._rebuild(new)
            return
        self._rows = new

    def select_key(self, key: str) -> bool:
        """Move the cursor to a row; returns whether it exists."""
        self._add_pending(len(self._pending))
        keys = row_keys(self._rows)
        if key not in keys:
            return False
        self.move_cursor(row=keys.index(key))
        return True

    def action_scroll_bottom(self) -> None:
        """Go to the last row, adding the pending ones."""
        self._add_pending(len(self._pending))
        super().action_scroll_bottom()

    def _update_cells(self, rows: list[Row], known: dict[str, Sequence[Text]]) -> None:
        columns = list(self.columns)
        for key, cells in rows:
            before = known[key]
            if cells is before:
                continue
            for column, cell, old in zip(columns, cells, before, strict=True):
                if cell != old:
                    self.update_cell(key, column, cell, update_width=cell.cell_len > old.cell_len)

    def _reorder(self, rows: list[Row]) -> None:
        """Reorder the same rows, which is much cheaper than adding them again."""
        current, place, scroll = self.current, self.cursor_row, self.scroll_y
        order = {id(self.get_row(key)[0]): index for index, (key, _) in enumerate(rows)}
        self.sort(key=lambda cells: order[id(cells[0])])
        self._put_cursor(rows, current, place, scroll)

    def _rebuild(self, rows: list[Row], *, with_columns: bool = False) -> None:
        current, place, scroll = self.current, self.cursor_row, self.scroll_y
        keys = row_keys(rows)
        needed = (keys.index(current) if current in keys else place) + ROWS_AT_ONCE
        self.clear(columns=with_columns)
        for heading in self._headings if with_columns else ():
            self.add_column(Text(heading.label, no_wrap=True), key=heading.key, width=heading.width)
        self._rows, self._pending = [], rows
        self._add_pending(needed)
        self._put_cursor(self._rows, current, place, scroll)
        self._add_more()

    def _add_pending(self, count: int) -> None:
        for key, cells in self._pending[:count]:
            self.add_row(*cells, key=key)
        self._rows = self._rows + self._pending[:count]
        self._pending = self._pending[count:]

    def _add_more(self) -> None:
        if self._pending:
            self.call_after_refresh(self._add_some)

    def _add_some(self) -> None:
        self._add_pending(ROWS_AT_ONCE)
        self._add_more()

    def _put_cursor(self, rows: list[Row], current: str, place: int, scroll: float) -> None:
        keys = row_keys(rows)
        if rows:
            self.move_cursor(row=keys.index(current) if current in keys else min(place, len(rows) - 1), scroll=False)
            self.scroll_to(y=scroll, animate=False)
