"""Choosing runs whose curves are to be drawn with those of another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import SelectionList, Static
from textual.widgets.selection_list import Selection

from workbench.text import clean
from workbench.widgets.run_charts import BESIDE_COLOURS

MOST_BESIDE = len(BESIDE_COLOURS)


class ChooseRuns(ModalScreen[list[str] | None]):
    """The other runs, newest first; returns the names of those that were marked, None where nothing is to change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("enter", "accept", "Draw them", priority=True),
        Binding("j", "move('cursor_down')", "Down", show=False),
        Binding("k", "move('cursor_up')", "Up", show=False),
    ]

    def __init__(self, names: Sequence[str], chosen: Collection[str]) -> None:
        super().__init__(classes="dialog")
        self.names = names
        self.chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            question = f"Which runs are to be drawn beside it, at most {MOST_BESIDE}?"
            yield Static(question, classes="dialog-question", markup=False)
            marked = (Selection(Content(clean(name)), name, name in self.chosen) for name in self.names)
            yield SelectionList[str](*marked)
            yield Static("Space marks, Enter draws, Esc leaves it as it was.", id="beside-note", markup=False)

    def on_mount(self) -> None:
        self.query_one(SelectionList).focus()

    async def action_move(self, how: str) -> None:
        await self.query_one(SelectionList).run_action(how)

    @on(SelectionList.SelectedChanged)
    def _tell(self, event: SelectionList.SelectedChanged[str]) -> None:
        count = len(event.selection_list.selected)
        note = f"{count} are marked; only {MOST_BESIDE} can be drawn." if count > MOST_BESIDE else ""
        self.query_one("#beside-note", Static).update(note or "Space marks, Enter draws, Esc leaves it as it was.")

    def action_accept(self) -> None:
        marked: list[str] = self.query_one(SelectionList).selected
        if len(marked) <= MOST_BESIDE:
            self.dismiss(marked)
