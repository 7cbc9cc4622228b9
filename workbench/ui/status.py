"""The line on top of every screen: the screens, and the state of the training."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from workbench.ui.host import Destination, host_of


class StatusLine(Horizontal):
    """Screen names with their keys on the left; `App.training_line` on the right."""

    def __init__(self) -> None:
        super().__init__()
        # an attribute, since a terminal may close before it is mounted, or after
        self.line = Static(id="training-line", markup=False)

    def compose(self) -> ComposeResult:
        for screen in host_of(self).screens:
            yield Tab(screen)
        yield self.line

    def on_mount(self) -> None:
        self.watch(self.app, "training_line", self._show)
        self.call_after_refresh(self._mark)

    def _mark(self) -> None:
        for tab in self.query(Tab):
            tab.set_class(tab.mode == self.screen.id, "current")

    def on_resize(self) -> None:
        self._show(host_of(self).training_line)

    def _show(self, line: str) -> None:
        """Show as many parts of the line as fit."""
        parts = line.split(" · ")
        while len(parts) > 1 and cell_len(" · ".join(parts)) > self.line.content_size.width:
            parts.pop()
        self.line.update(Content(" · ".join(parts)), layout=False)


class Tab(Static):
    """One screen's name; a click opens it."""

    def __init__(self, screen: Destination) -> None:
        super().__init__(Content(f" {screen.key} {screen.name} "))
        self.mode = screen.id

    async def on_click(self) -> None:
        await host_of(self).action_show(self.mode)
