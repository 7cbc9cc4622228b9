"""How a corpus is to become tokens: the kind of tokenizer, the size of its vocabulary, and how much text."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.lists import ChoiceList

KINDS = {
    "bpe": "byte pairs, learnt from this text",
    "sentencepiece": "SentencePiece, learnt from this text",
    "char": "one id for each character",
    "byte": "256 ids, one for each byte",
}
SIZED = ("bpe", "sentencepiece")
EMBEDDED = ("stories", "pylib")


class PrepareDialog(Modal[RunConfig]):
    """Asks for a tokenizer; returns the configuration to prepare, None for cancelled."""

    NAME = "Prepare"
    GUIDE = (
        "How the text is to become tokens. Byte pairs and SentencePiece learn a vocabulary of the size you give from "
        "the text; characters and bytes need none. Preparing goes on beside everything else, and can be cancelled."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("tab", "app.focus_next", "Next pane", id="screen.next", show=False),
        Binding("shift+tab", "app.focus_previous", "Pane before", id="screen.previous", show=False),
    ]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(classes="dialog")
        self.config = config

    def compose(self) -> ComposeResult:
        data, tokenizer = self.config.data, self.config.tokenizer
        with Vertical(classes="dialog-box"):
            yield Static(Content(f"Prepare {clean(data.corpus)}"), classes="dialog-question")
            yield ChoiceList(*(Option(Content(f"{kind}: {about}"), id=kind) for kind, about in KINDS.items()))
            yield Input(str(tokenizer.vocab_size), id="vocabulary")
            yield Input(f"{data.size_mb:g}", id="megabytes")
            yield Static("", classes="dialog-problem", markup=False)
            yield Static(Content("Enter prepares it, Tab goes to the next field."), classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one("#vocabulary").border_title = "ids of the vocabulary"
        megabytes = self.query_one("#megabytes")
        megabytes.border_title = "megabytes of text"
        megabytes.display = self.config.data.corpus in EMBEDDED
        listing = self.query_one(OptionList)
        listing.highlighted = 0
        listing.focus()

    @property
    def kind(self) -> str:
        return list(KINDS)[self.query_one(OptionList).highlighted or 0]

    def chosen(self) -> RunConfig:
        """The configuration as it is filled in; ConfigError says what is wrong with it."""
        overrides = [("tokenizer.kind", self.kind), ("model.context", "1")]  # any length of text will do
        if self.kind in SIZED:
            overrides.append(("tokenizer.vocab_size", self.query_one("#vocabulary", Input).value))
        if self.config.data.corpus in EMBEDDED:
            overrides.append(("data.size_mb", self.query_one("#megabytes", Input).value))
        return with_overrides(self.config, overrides)

    @on(Input.Changed)
    @on(OptionList.OptionHighlighted)
    def _check(self) -> None:
        problem = ""
        try:
            self.chosen()
        except UserError as error:
            problem = str(error)
        self.query_one("#vocabulary").disabled = self.kind not in SIZED
        self.query_one(".dialog-problem", Static).update(Content(clean(problem)))

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _accept(self) -> None:
        try:
            self.dismiss(self.chosen())
        except UserError:
            return  # what is wrong stands there already
