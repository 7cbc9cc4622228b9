"""The line on top of every screen: which screen this is, and how the training is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

NAMES = {"presets": "Presets", "train": "Train", "runs": "Runs", "chat": "Chat", "data": "Data"}


class StatusLine(Horizontal):
    """Screen names with their keys on the left; `App.training_line` on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Static(
            id="training-line", markup=False
        )  # kept: a terminal may close before it is mounted, or after

    def compose(self) -> ComposeResult:
        for number, (mode, name) in enumerate(NAMES.items(), 1):
            yield Tab(number, mode, name)
        yield self.line

    def on_mount(self) -> None:
        self.watch(self.app, "training_line", self._show)
        self.call_after_refresh(self._mark)

    def _mark(self) -> None:
        for tab in self.query(Tab):
            tab.set_class(tab.mode == self.screen.id, "current")

    def on_resize(self) -> None:
        self._show(cast("WorkbenchApp", self.app).training_line)

    def _show(self, line: str) -> None:
        """As many parts of the line as there is room for."""
        parts = line.split(" · ")
        while len(parts) > 1 and cell_len(" · ".join(parts)) > self.line.content_size.width:
            parts.pop()
        self.line.update(Content(" · ".join(parts)), layout=False)


class Tab(Static):
    """One screen's name; a click opens it."""

    def __init__(self, number: int, mode: str, name: str) -> None:
        super().__init__(Content(f" {number} {name} "))
        self.mode = mode

    async def on_click(self) -> None:
        await cast("WorkbenchApp", self.app).action_show(self.mode)
