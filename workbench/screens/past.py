"""The conversations that were kept, and a search through them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from workbench.commands.listing import age
from workbench.services.transcripts import Past, list_past
from workbench.text import one_line


class PastConversations(ModalScreen[Path | None]):
    """Past conversations, narrowed by typing words that occur in them. Returns the file of one, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "move(1)", "Down", show=False),
        Binding("up", "move(-1)", "Up", show=False),
    ]

    def __init__(self, home: Path) -> None:
        super().__init__(classes="dialog")
        self.home = home
        self.past: list[Past] | None = None
        self.found: list[Past] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static("Past conversations", classes="dialog-question")
            yield Input(placeholder="words that occur in it, or RUN@STEP")
            yield OptionList()
            yield Static("reading …", id="past-count", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._find()

    @work(thread=True)
    def _find(self) -> None:
        past = list_past(self.home)
        self.app.call_from_thread(self._take, past)

    def _take(self, past: list[Past]) -> None:
        self.past = past
        self._narrow()

    @on(Input.Changed)
    def _narrow(self) -> None:
        if self.past is None:
            return
        words = self.query_one(Input).value.casefold().split()
        self.found = [one for one in self.past if one.holds(words)]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(line_of(one)) for one in self.found])
        options.highlighted = 0 if self.found else None
        kept = (
            f"{len(self.found)} of {len(self.past)}" if self.past else "none yet: every reply is kept once it is there"
        )
        self.query_one("#past-count", Static).update(Content(kept))

    def action_move(self, by: int) -> None:
        """Move through the list while the typing goes on."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = ((options.highlighted or 0) + by) % options.option_count

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.found[event.option_index].file)

    @on(Input.Submitted)
    def _typed(self) -> None:
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self.dismiss(self.found[highlighted].file)


def line_of(past: Past) -> Content:
    """A conversation in one line of the list."""
    prompt = one_line(past.prompt[:60]) or "(start of a document)"
    facts = f"  {age(past.created)} ago · {past.exchanges} · {one_line(', '.join(past.models))}"
    return Content.assemble(prompt, (facts, "dim"))
