"""Choosing runs whose curves are to be drawn with those of another."""

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

from workbench.charts.run_charts import OTHER_COLOURS
from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.lists import ChoiceList

MOST_BESIDE = len(OTHER_COLOURS)
HINT = "Space marks, Enter draws, Esc leaves it as it was."


class ChooseRuns(Modal[list[str] | None]):
    """The other runs, newest first; returns the names of those that were marked, None where nothing is to change."""

    NAME = "Other runs"
    GUIDE = (
        f"Space marks a run whose curves are to be drawn beside the one that is shown, or takes its mark away; at most "
        f"{MOST_BESIDE} can be marked. Enter draws the marked ones, and none where none is marked."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="beside.mark", key_display="␣"),
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
    ]

    def __init__(self, names: Sequence[str], chosen: Collection[str]) -> None:
        super().__init__(classes="dialog")
        self.names = names
        self.marked = set(chosen)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            question = f"Which runs are to be drawn beside it, at most {MOST_BESIDE}?"
            yield Static(question, classes="dialog-question", markup=False)
            yield ChoiceList(*(Option(self._entry(name), id=name) for name in self.names))
            yield Static(HINT, id="beside-note", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()

    def _entry(self, name: str) -> Content:
        """A dot before what is marked, which is seen without colours too."""
        return Content(f"{'●' if name in self.marked else ' '} {clean(name)}")

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take its mark away."""
        listing = self.query_one(ChoiceList)
        option = listing.highlighted_option
        if option is None or option.id is None:
            return
        self.marked ^= {option.id}
        listing.replace_option_prompt(option.id, self._entry(option.id))
        count = len(self.marked)
        note = f"{count} are marked; only {MOST_BESIDE} can be drawn." if count > MOST_BESIDE else HINT
        self.query_one("#beside-note", Static).update(note)

    @on(OptionList.OptionSelected)
    def _accept(self) -> None:
        if len(self.marked) <= MOST_BESIDE:
            self.dismiss([name for name in self.names if name in self.marked])
