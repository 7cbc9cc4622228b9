"""Choosing runs to compare with the shown one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from workbench.charts.run_charts import OTHER_COLORS
from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.lists import ChoiceList

MAX_OTHERS = len(OTHER_COLORS)
HINT = "Space selects, Enter compares, Esc cancels."


class ChooseRuns(Modal[list[str] | None]):
    """The other runs, newest first. Returns the names of the selected ones, None for cancel."""

    NAME = "Compare"
    GUIDE = (
        f"Space selects a run to compare with, or deselects it; at most {MAX_OTHERS}. Enter draws the curves of the "
        "selected runs with those of the shown one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Select", id="beside.mark", key_display="␣"),
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
    ]

    def __init__(self, names: Sequence[str], chosen: Collection[str]) -> None:
        super().__init__(classes="dialog")
        self.names = names
        self.marked = set(chosen)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            question = f"Compare with which runs (at most {MAX_OTHERS})?"
            yield Static(question, classes="dialog-question", markup=False)
            yield ChoiceList(*(Option(self._entry(name), id=name) for name in self.names))
            yield Static(HINT, id="compare-note", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()

    def _entry(self, name: str) -> Content:
        """Selected runs have a dot, which is visible without colors too."""
        return Content(f"{'●' if name in self.marked else ' '} {clean(name)}")

    def action_mark(self) -> None:
        """Select or deselect the run under the cursor."""
        listing = self.query_one(ChoiceList)
        option = listing.highlighted_option
        if option is None or option.id is None:
            return
        self.marked ^= {option.id}
        listing.replace_option_prompt(option.id, self._entry(option.id))
        count = len(self.marked)
        note = f"{count} selected; at most {MAX_OTHERS} can be drawn. Deselect some." if count > MAX_OTHERS else HINT
        self.query_one("#compare-note", Static).update(note)

    @on(OptionList.OptionSelected)
    def _accept(self) -> None:
        if len(self.marked) <= MAX_OTHERS:
            self.dismiss([name for name in self.names if name in self.marked])
