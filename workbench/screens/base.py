"""What every screen has: the status line on top, the keys that work now at the bottom, help on `?`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from workbench.widgets.status import StatusLine

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class WorkbenchScreen(Screen[None]):
    """A main screen. Subclasses yield their content from `body` and describe themselves in `GUIDE`."""

    GUIDE: ClassVar[str] = ""
    """Two or three sentences for the help screen: what one does here."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Pane before", show=False),
    ]

    @property
    def workbench(self) -> WorkbenchApp:
        """The app, with its home directory and its training service."""
        return cast("WorkbenchApp", self.app)

    def compose(self) -> ComposeResult:
        yield StatusLine()
        yield from self.body()
        yield Footer(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        """The widgets between the status line and the footer."""
        yield from ()
