"""Choosing what to talk to."""

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

from workbench.services.talker import Choice, choices
from workbench.text import one_line


class ChooseModel(ModalScreen[str]):
    """The models of all runs, narrowed by typing. Returns a reference, or "" for none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss('')", "Cancel"),
        Binding("down", "move(1)", "Down", show=False),
        Binding("up", "move(-1)", "Up", show=False),
    ]

    def __init__(self, home: Path, question: str = "Talk to which model?") -> None:
        super().__init__(classes="dialog")
        self.home, self.question = home, question
        self.choices: list[Choice] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(self.question, classes="dialog-question")
            yield Input(placeholder="type to narrow; or RUN, RUN@best, RUN@STEP, RUN@live")
            yield OptionList()

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._find()

    @work(thread=True)
    def _find(self) -> None:
        found = choices(self.home)
        self.app.call_from_thread(self._take, found)

    def _take(self, found: list[Choice]) -> None:
        self.choices = found
        self._narrow()

    @on(Input.Changed)
    def _narrow(self) -> None:
        words = self.query_one(Input).value.casefold().split()
        options = self.query_one(OptionList)
        options.clear_options()
        for choice in self.choices:
            text = f"{one_line(choice.reference)}  "
            if all(word in (text + choice.description).casefold() for word in words):
                options.add_option(Option(Content.assemble(text, (choice.description, "dim")), id=choice.reference))
        options.highlighted = 0 if options.option_count else None

    def action_move(self, by: int) -> None:
        """Move through the list while the typing goes on."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = ((options.highlighted or 0) + by) % options.option_count

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id or "")

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(options.get_option_at_index(options.highlighted).id or "")
        else:
            self.dismiss(event.value.strip())
