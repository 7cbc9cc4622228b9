"""The base of the main screens: a status line on top, the keys that work now at the bottom, help on `?`."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from workbench.ui.host import Host, host_of
from workbench.ui.key_line import KeyLine
from workbench.ui.keys import guide_of_focus
from workbench.ui.status import StatusLine


class WorkbenchScreen(Screen[None]):
    """A main screen. Subclasses yield their content from `body` and describe themselves in `GUIDE`."""

    GUIDE: ClassVar[str] = ""
    """The help of the screen, in two or three sentences."""
    GUIDES: ClassVar[dict[str, str]] = {}
    """The help for focused widgets, by widget id."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide"), (180, "-columns")]  # noqa: RUF012 - as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next pane", id="screen.next", show=False),
        Binding("shift+tab", "app.focus_previous", "Previous pane", id="screen.previous", show=False),
    ]

    @property
    def workbench(self) -> Host:
        """The app, with its home directory and its training service."""
        return host_of(self)

    def focus_guide(self) -> str:
        """Help for the focused widget, "" for none."""
        return guide_of_focus(self, self.GUIDES)

    def compose(self) -> ComposeResult:
        yield StatusLine()
        yield from self.body()
        yield KeyLine()

    def body(self) -> ComposeResult:
        """The widgets between the status line and the footer."""
        yield from ()
