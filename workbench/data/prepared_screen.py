"""Prepared data on disk, and the runs that use it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from workbench.data import prepared_data
from workbench.data.prepared_data import PreparedData
from workbench.formatting import format_size, plural
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.list_screen import ListScreen
from workbench.ui.notices import attempt


class PreparedDataScreen(ListScreen):
    """Tokenized datasets, and the runs that use them."""

    NAME = "Prepared data"
    GUIDE = (
        "Tokenized datasets, shared by all runs that need them. C deletes datasets that no run uses; runs in the trash "
        "count. A deleted dataset is prepared again when a run needs it."
    )
    HEADINGS = ("corpus", "size", "used by", "data")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("C", "clean", "Delete unused data", id="cached.clean")]

    def __init__(self) -> None:
        super().__init__()
        self.items: list[PreparedData] = []

    @work(exclusive=True, group="list prepared data")
    async def reload(self) -> None:
        self.say("Searching for runs that use the data…")
        self.items = await asyncio.to_thread(prepared_data.list_prepared, self.workbench.home)
        unused = prepared_data.unused(self.items)
        note = f"{plural(len(self.items), 'dataset')}, {total_size(self.items)}; "
        note += f"unused: {len(unused)}, {total_size(unused)}." if unused else "all in use."
        self.show(
            note if self.items else "No prepared data yet.", [(data.fingerprint, _cells(data)) for data in self.items]
        )

    @work
    async def action_clean(self) -> None:
        """Delete the data that no run uses, after a confirmation."""
        unused = prepared_data.unused(self.items)
        if not unused:
            self.notify("All prepared data is in use.", markup=False)
            return
        corpora = ", ".join(sorted({data.corpus for data in unused}))
        question = (
            f"Delete {plural(len(unused), 'unused dataset')} ({clean(corpora)})? This frees {total_size(unused)}. "
        )
        question += "Data is prepared again when a run needs it."
        answers = (Answer("keep", "Keep"), Answer("clean", "Delete"))
        if await self.app.push_screen_wait(Ask(question, answers)) == "clean":
            self.say("Deleting…")
            await asyncio.to_thread(attempt, self.app, lambda: prepared_data.clean(unused))
            self.reload()


def total_size(items: list[PreparedData]) -> str:
    return format_size(sum(data.size_bytes for data in items))


def _cells(data: PreparedData) -> list[Text]:
    return [
        Text(one_line(data.corpus)),
        Text(format_size(data.size_bytes)),
        Text(one_line(", ".join(data.used_by)) or "no run", style="" if data.used_by else "yellow"),
        Text(data.fingerprint),
    ]
