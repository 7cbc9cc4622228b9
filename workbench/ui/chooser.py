"""A dialog to choose one of many entries: typing filters the list, and the arrow keys move the selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.errors import UserError
from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.lists import ChoiceList

PAGE = 10


Value = TypeVar("Value")


@dataclass(frozen=True)
class Entry(Generic[Value]):
    """A line of the list: `value` is returned, and `text` is searched."""

    value: Value
    label: str
    detail: str
    text: str

    def contains(self, words: list[str]) -> bool:
        """Whether the text contains all of `words`, which are in lower case."""
        text = self.text.casefold()
        return all(word in text for word in words)


class Chooser(Modal[Value]):
    """A text field, and the list of entries that `load` returns. Returns the value of an entry, or None."""

    QUESTION: ClassVar[str] = ""
    PLACEHOLDER: ClassVar[str] = ""
    HINT: ClassVar[str] = "↑ ↓ select · Enter open · esc cancel"
    EMPTY: ClassVar[str] = ""
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
        self.entries: list[Entry[Value]] | None = None
        """None until they are loaded."""
        self.shown: list[Entry[Value]] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(Content(self.question), classes="dialog-question")
            yield Input(placeholder=self.PLACEHOLDER)
            yield ChoiceList()
            yield Static(self.HINT, id="chooser-hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.say("Loading …")
        self.reload()

    def load(self) -> list[Entry[Value]]:
        """The entries. Called in a thread; may raise UserError."""
        raise NotImplementedError

    def reload(self) -> None:
        """Load the entries again."""
        self._reload_in_thread()

    @work(thread=True, group="entries")
    def _reload_in_thread(self) -> None:
        self.app.call_from_thread(self.show_entries, *self.try_load())

    def try_load(self) -> tuple[list[Entry[Value]], str]:
        """The entries, and why they could not be loaded."""
        try:
            return self.load(), ""
        except UserError as error:
            return [], str(error)

    def show_entries(self, entries: list[Entry[Value]], problem: str) -> None:
        """Show loaded entries."""
        if self.is_attached:  # false if the dialog was closed meanwhile
            self.entries = entries
            self.filter()
            if problem:
                self.say(problem)

    @property
    def listing(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def typed(self) -> str:
        return self.query_one(Input).value.strip()

    @property
    def marked(self) -> Entry[Value] | None:
        """The selected entry."""
        index = self.listing.highlighted
        return self.shown[index] if index is not None else None

    def filter(self) -> None:
        """Show the entries that contain all typed words."""
        if self.entries is None:
            return
        words = self.typed.casefold().split()
        self.shown = [entry for entry in self.entries if entry.contains(words)]
        self.listing.set_options(Option(self.line(entry, words)) for entry in self.shown)
        self.listing.highlighted = 0 if self.shown else None
        count = f"{len(self.shown)} of {len(self.entries)} · " if words else ""
        self.say(count + self.HINT if self.entries else f"{self.EMPTY} · esc cancel")

    def line(self, entry: Entry[Value], words: list[str]) -> Content:
        """An entry in the list, filtered by `words`."""
        return Content.assemble(one_line(entry.label), (f"  {one_line(entry.detail)}", "dim"))

    def choose(self, entry: Entry[Value]) -> None:
        """Return an entry."""
        self.dismiss(entry.value)

    def submit(self) -> None:
        """Return the selected entry; called by Enter in the field."""
        if self.marked is not None:
            self.choose(self.marked)

    def say(self, text: str) -> None:
        self.query_one("#chooser-hint", Static).update(Content(one_line(text)))

    def action_move(self, by: int) -> None:
        """Select the next or previous line, cyclically."""
        if count := self.listing.option_count:
            self.listing.highlighted = ((self.listing.highlighted or 0) + by) % count

    def action_page(self, by: int) -> None:
        if count := self.listing.option_count:
            self.listing.highlighted = min(count - 1, max(0, (self.listing.highlighted or 0) + by))

    @on(Input.Changed)
    def _changed(self) -> None:
        self.filter()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.submit()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.choose(self.shown[event.option_index])
