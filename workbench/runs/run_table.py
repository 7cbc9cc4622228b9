"""The table of runs on the Runs screen: filtered, sorted, as a tree, with marks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from workbench.runs.listing import SORTS, as_tree, select_runs
from workbench.runs.rows import RunRows
from workbench.runs.summaries import RunSummary
from workbench.ui.tables import BAR, LiveTable


class RunTable(LiveTable):
    """All runs that match the filter."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.summaries: list[RunSummary] = []
        self.marked: list[str] = []
        """The names of the marked runs, in the order they were marked."""
        self.filter = ""
        """Words that a listed run must contain."""
        self.sort_by = "age"
        self.reversed = False
        self.as_tree = False
        self.widths: dict[str, int] = {}
        """The columns that are shown, with their widths in cells."""
        self._run_rows = RunRows()

    @property
    def selected(self) -> RunSummary | None:
        """The run under the cursor."""
        return next((row for row in self.summaries if row.name == self.current), None)

    def named(self, names: Sequence[str]) -> list[RunSummary]:
        """The runs with these names, in their order."""
        return [row for name in names for row in self.summaries if row.name == name]

    def set_runs(self, summaries: list[RunSummary]) -> None:
        """Show other runs. Marks of runs that are gone are dropped."""
        self.summaries = summaries
        names = {row.name for row in summaries}
        self.marked = [name for name in self.marked if name in names]
        self._run_rows.keep_only(names)
        self.show_runs()

    def show_runs(self) -> None:
        """Fill the table with the filtered and sorted runs."""
        rows = select_runs(self.summaries, self.filter, self.sort_by, self.reversed)
        lines, headings = self._run_rows.table(
            as_tree(rows) if self.as_tree else [(row, "") for row in rows],
            self.marked,
            time.time(),
            room=(self.outer_size.width or self.screen.size.width) - BAR,
            sort_by=self.sort_by,
            backwards=self.reversed,
        )
        self.widths = {heading.key: heading.width for heading in headings}
        self.show_rows(lines, headings)

    def set_filter(self, words: str) -> None:
        self.filter = words
        self.show_runs()

    def sort_runs(self, column: str, *, reverse: bool = False) -> None:
        self.sort_by, self.reversed = column, reverse
        self.show_runs()

    def sort_by_next(self) -> None:
        """Sort by the next column."""
        self.sort_runs(SORTS[(SORTS.index(self.sort_by) + 1) % len(SORTS)])

    def toggle_tree(self) -> None:
        self.as_tree = not self.as_tree
        self.show_runs()

    def toggle_mark(self) -> None:
        """Mark or unmark the run under the cursor, and go to the next one."""
        if self.current in self.marked:
            self.marked.remove(self.current)
        elif self.current:
            self.marked.append(self.current)
        self.show_runs()
        self.action_cursor_down()
