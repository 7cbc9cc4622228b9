"""A dialog to choose from a long list: typing filters it, the arrows move the selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ScreenResultType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.lists import ChoiceList

PAGE = 10


class Chooser(Modal[ScreenResultType]):
    """An input above a list. Subclasses fill the list in `narrow`, and handle the choice in `take`."""

    QUESTION: ClassVar[str] = ""
    PLACEHOLDER: ClassVar[str] = ""
    HINT: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("down", "move(1)", "Down", id="chooser.down", show=False),
        Binding("up", "move(-1)", "Up", id="chooser.up", show=False),
        Binding("pagedown", f"page({PAGE})", "Page down", id="chooser.page-down", show=False),
        Binding("pageup", f"page({-PAGE})", "Page up", id="chooser.page-up", show=False),
    ]
    DEFAULT_CSS = """
    Chooser {
        .dialog-box { width: 96%; max-width: 120; }
        OptionList { text-wrap: nowrap; text-overflow: ellipsis; }
        #chooser-hint { height: auto; color: $text-muted; margin-top: 1; }
    }
    """

    def __init__(self) -> None:
        super().__init__(classes="dialog")
        self.question = self.QUESTION

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(Content(self.question), classes="dialog-question")
            yield Input(placeholder=self.PLACEHOLDER)
            yield ChoiceList()
            yield Static(self.HINT, id="chooser-hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @property
    def listing(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def typed(self) -> str:
        return self.query_one(Input).value.strip()

    @property
    def marked(self) -> str:
        """The id of the selected line; "" where the list is empty."""
        index = self.listing.highlighted
        return (self.listing.get_option_at_index(index).id or "") if index is not None else ""

    def narrow(self) -> None:
        """Fill the list with what matches the input."""
        raise NotImplementedError

    def take(self, identity: str) -> None:
        """Handle the choice of the line with this id."""
        raise NotImplementedError

    def submit(self) -> None:
        """Handle Enter in the input."""
        if self.marked:
            self.take(self.marked)

    def fill(self, options: Sequence[Option]) -> None:
        """Show these lines, and select the first."""
        self.listing.set_options(options)
        self.listing.highlighted = 0 if options else None

    def say(self, text: str) -> None:
        self.query_one("#chooser-hint", Static).update(Content(one_line(text)))

    def action_move(self, by: int) -> None:
        """Select the next line; after the last comes the first."""
        if count := self.listing.option_count:
            self.listing.highlighted = ((self.listing.highlighted or 0) + by) % count

    def action_page(self, by: int) -> None:
        if count := self.listing.option_count:
            self.listing.highlighted = min(count - 1, max(0, (self.listing.highlighted or 0) + by))

    @on(Input.Changed)
    def _changed(self) -> None:
        self.narrow()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.submit()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.take(event.option.id or "")
