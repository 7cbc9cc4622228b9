"""A table that is refreshed in place: the cursor stays on its row, and only cells that changed are touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widgets import DataTable

from workbench.widgets.lists import moves

Row = tuple[str, Sequence[Text]]
"""The key of a row, and its cells."""


class LiveTable(DataTable[Text]):
    """A `DataTable` of whole rows, with the keys of a pager."""

    BINDINGS: ClassVar[list[BindingType]] = moves("cursor_down", "cursor_up", "scroll_top", "scroll_bottom")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._rows: list[Row] = []

    @property
    def current(self) -> str:
        """The key of the row under the cursor, or ""."""
        return self._rows[self.cursor_row][0] if 0 <= self.cursor_row < len(self._rows) else ""

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show exactly these rows. The cursor stays with its key, or near its place if that row is gone."""
        new = list(rows)
        known = dict(self._rows)
        if len(known) == len(new) and all(key in known for key, _ in new):
            self._update_cells(new, known)
            if [key for key, _ in new] != [key for key, _ in self._rows]:
                self._reorder(new)
        else:
            self._rebuild(new)
        self._rows = new

    def select_key(self, key: str) -> bool:
        """Put the cursor on a row; whether it is there."""
        keys = [row[0] for row in self._rows]
        if key not in keys:
            return False
        self.move_cursor(row=keys.index(key))
        return True

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
        """The same rows in another order: much cheaper than adding them anew."""
        current, place, scroll = self.current, self.cursor_row, self.scroll_y
        order = {id(self.get_row(key)[0]): index for index, (key, _) in enumerate(rows)}
        self.sort(key=lambda cells: order[id(cells[0])])
        self._put_cursor(rows, current, place, scroll)

    def _rebuild(self, rows: list[Row]) -> None:
        current, place, scroll = self.current, self.cursor_row, self.scroll_y
        self.clear()
        for key, cells in rows:
            self.add_row(*cells, key=key)
        self._put_cursor(rows, current, place, scroll)

    def _put_cursor(self, rows: list[Row], current: str, place: int, scroll: float) -> None:
        keys = [key for key, _ in rows]
        if rows:
            self.move_cursor(row=keys.index(current) if current in keys else min(place, len(rows) - 1), scroll=False)
            self.scroll_to(y=scroll, animate=False)
