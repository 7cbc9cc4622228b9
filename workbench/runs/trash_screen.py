"""The trash: deleted runs, to be restored or deleted permanently."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from workbench.formatting import format_age, format_size, plural
from workbench.runs import trash
from workbench.runs.trash import Trashed
from workbench.text import one_line
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.list_screen import ListScreen
from workbench.ui.notices import attempt


class TrashScreen(ListScreen):
    """Deleted runs."""

    NAME = "Trash"
    GUIDE = (
        "Deleted runs stay here until the trash is emptied. r restores a run, d deletes it permanently, E empties it."
    )
    HEADINGS = ("run", "size", "deleted")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,enter", "restore", "Restore", id="trash.restore", key_display="r"),
        Binding("d,delete", "delete", "Delete", id="trash.destroy", key_display="d"),
        Binding("E", "empty", "Empty trash", id="trash.empty"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Trashed] = []

    @work(exclusive=True, group="list trash")
    async def reload(self) -> None:
        self.say("Measuring the size of the trash…")
        self._take(await asyncio.to_thread(trash.list_trash, self.workbench.home))

    def _take(self, items: list[Trashed]) -> None:
        self.items, now = items, time.time()
        rows = [
            (item.path.name, [Text(one_line(item.name)), Text(format_size(item.size_bytes)), Text(age)])
            for item in items
            for age in [f"{format_age(now - item.deleted)} ago"]
        ]
        total = format_size(sum(item.size_bytes for item in items))
        self.show(f"In the trash: {plural(len(rows), 'run')}, {total}." if rows else "The trash is empty.", rows)

    @property
    def selected(self) -> list[Trashed]:
        """The run under the cursor; empty if there is none."""
        return [item for item in self.items if item.path.name == self.table.current]

    def on_data_table_row_selected(self) -> None:
        self.action_restore()

    def action_restore(self) -> None:
        """Restore the selected run."""
        for item in self.selected:
            if attempt(self.app, lambda item=item: self._restore(item)):  # type: ignore[misc]
                self._hide([item])
                self.reload()

    def _hide(self, gone: list[Trashed]) -> None:
        """Remove items from the list at once: reading the trash again takes time."""
        self._take([item for item in self.items if item not in gone])

    def _restore(self, item: Trashed) -> None:
        run = trash.restore(self.workbench.home, item)
        self.notify(f"Restored {run.name}", markup=False)

    def action_delete(self) -> None:
        """Delete the selected run permanently."""
        self._delete(self.selected)

    def action_empty(self) -> None:
        """Delete every run in the trash permanently."""
        self._delete(self.items)

    @work
    async def _delete(self, items: list[Trashed]) -> None:
        if not items:
            return
        answers = (Answer("keep", "Keep"), Answer("delete", "Delete permanently"))
        if await self.app.push_screen_wait(Ask(trash.describe_emptying(items), answers)) == "delete":
            self._hide(items)
            self.say("Deleting…")
            await asyncio.to_thread(attempt, self.app, lambda: trash.empty(items))
            self.reload()
