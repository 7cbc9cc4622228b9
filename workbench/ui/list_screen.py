"""A window with one table over the whole screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.tables import LiveTable, Row


class ListScreen(Modal[None]):
    """A note and a table. Subclasses give `HEADINGS`, and fill the table in `reload`."""

    HEADINGS: ClassVar[tuple[str, ...]] = ()
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back", id="store.back", key_display="esc")]
    DEFAULT_CSS = """
    ListScreen { background: $background;
        Vertical { height: 1fr; }
        .list-note { height: auto; padding: 0 1; }
        LiveTable { height: 1fr; background: $surface; }
    }
    """

    @property
    def table(self) -> LiveTable:
        return self.query_one(LiveTable)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(classes="list-note", markup=False)
            yield LiveTable(id="list-table")
        yield KeyLine()

    def on_mount(self) -> None:
        for heading in self.HEADINGS:
            self.table.add_column(heading)
        self.table.focus()
        self.reload()

    def reload(self) -> object:
        """Read what is to be listed, and show it."""
        raise NotImplementedError

    def say(self, note: str) -> None:
        if self.is_attached:  # false if the window was closed meanwhile
            self.query_one(".list-note", Static).update(Content(clean(note)))

    def show(self, note: str, rows: Sequence[Row]) -> None:
        self.say(note)
        if self.is_attached:
            self.table.show_rows(rows)
