"""Two runs side by side: their results, and where their configurations differ."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from llm.config import RunConfig, fields_of, get_value
from workbench.formatting import format_count, format_number, format_size, plural
from workbench.presets.summary import format_value
from workbench.runs.summaries import RunSummary
from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.tables import BAR, PADDING, Heading, LiveTable, Row, cut

MIN_WIDTH = 8
"""The minimum width of a value in cells; the arrow keys scroll to what is cut off."""


class CompareScreen(Modal[None]):
    """A table of three columns: field and both values. Equal values are hidden at first."""

    NAME = "Comparison"
    GUIDE = "Where two runs differ: first their results, then their configurations. a shows all fields."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="compare.back", key_display="esc"),
        Binding("a", "everything", "All fields", id="compare.all"),
    ]
    DEFAULT_CSS = """
    CompareScreen { background: $background; layout: vertical;
        #compare-title { height: 1; padding: 0 1; text-style: bold; }
        LiveTable { height: 1fr; background: $surface; }
    }
    """

    def __init__(self, one: RunSummary, other: RunSummary, configs: tuple[RunConfig, RunConfig]) -> None:
        super().__init__()
        self.one = one
        self.other = other
        self.configs = configs
        self.everything = False

    def compose(self) -> ComposeResult:
        yield Static(id="compare-title", markup=False)
        yield LiveTable(id="compare-table")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(LiveTable).focus()
        self.show()

    def on_resize(self) -> None:
        self.show()

    def show(self) -> None:
        rows = compare_fields(*self.configs, everything=self.everything)
        differing = sum(1 for key, _ in rows if self._differs(key))
        count = f"{plural(differing, 'field')} differ{'s' * (differing == 1)}"
        title = (
            f"{one_line(self.one.name)} and {one_line(self.other.name)}: {count if differing else 'no field differs'}"
        )
        self.query_one("#compare-title", Static).update(title)
        self._show_side_by_side(compare_results(self.one, self.other) + rows)

    def _show_side_by_side(self, rows: list[Row]) -> None:
        """Show the rows. Each value gets at most half of the width that the names leave, and is cut to it."""
        titles = [Text(one_line(run.name)) for run in (self.one, self.other)]
        names = max(cells[0].cell_len for _, cells in rows)
        longest = max(cell.cell_len for cells in (titles, *(cells[1:] for _, cells in rows)) for cell in cells)
        half = (self.size.width - BAR - names - 3 * PADDING) // 2
        width = max(MIN_WIDTH, min(longest, half))
        headings = [Heading("field", "", names)]
        headings += [Heading(key, cut(title, width).plain, width) for key, title in zip("ab", titles, strict=True)]
        fitted = [(key, [name, *(cut(cell, width) for cell in values)]) for key, (name, *values) in rows]
        self.query_one(LiveTable).show_rows(fitted, headings)

    def _differs(self, path: str) -> bool:
        one, other = (get_value(config, path) for config in self.configs)
        return bool(one != other)

    def action_everything(self) -> None:
        """Show every field, or only those that differ."""
        self.everything = not self.everything
        self.show()


def compare_results(one: RunSummary, other: RunSummary) -> list[Row]:
    """Rows of the results of two runs; the lower loss is bold."""
    rows: list[Row] = []
    for label, name in (("loss", "loss"), ("validation loss", "validation_loss"), ("bits per byte", "bits_per_byte")):
        values = [getattr(row, name) for row in (one, other)]
        known = [value for value in values if value is not None]
        best = min(known) if len(known) == 2 and known[0] != known[1] else None
        cells = [
            Text(
                "" if value is None else format_number(value),
                style="bold" if value is not None and value == best else "",
            )
            for value in values
        ]
        rows.append((f"result {name}", [Text(label, style="dim"), *cells]))
    for label, texts in (
        ("status", [row.status for row in (one, other)]),
        ("step", [f"{row.step:,}" for row in (one, other)]),
        ("parameters", [format_count(row.parameters) if row.parameters else "" for row in (one, other)]),
        ("forked from", [row.parent for row in (one, other)]),
        ("size", [format_size(row.size_bytes) for row in (one, other)]),
    ):
        if any(texts):
            rows.append((f"result {label}", [Text(label, style="dim"), *(Text(one_line(text)) for text in texts)]))
    return rows


def compare_fields(one: RunConfig, other: RunConfig, *, everything: bool = False) -> list[Row]:
    """Rows of the fields that differ, or of all fields with the differing ones bold."""
    rows: list[Row] = []
    for field in fields_of(RunConfig):
        values = [get_value(config, field.path) for config in (one, other)]
        differs = values[0] != values[1]
        if differs or everything:
            style = "bold" if differs and everything else ""
            cells = [Text(one_line(format_value(value)), style=style, no_wrap=True) for value in values]
            rows.append((field.path, [Text(field.path, style=style), *cells]))
    return rows
