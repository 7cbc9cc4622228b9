"""The dialogs of the Data screen: how to prepare a corpus, and which field of its rows contains the text."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.config import RunConfig, with_overrides
from llm.data.text.file_kinds import name_some
from llm.errors import problem_of
from workbench.data.corpora import BUILT_IN
from workbench.data.fields import FieldNeeded
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask, Form
from workbench.ui.lists import ChoiceList

KINDS = {
    "bpe": "byte pairs, trained on this text",
    "sentencepiece": "SentencePiece, trained on this text",
    "char": "one id per character",
    "byte": "256 ids, one per byte",
}
SIZED = ("bpe", "sentencepiece")
CHOSEN = "field "  # prefix of a field name in an answer, which distinguishes it from no answer


class PrepareDialog(Form[RunConfig]):
    """Asks for a tokenizer; returns the configuration to prepare, or None if canceled."""

    NAME = "Prepare"
    GUIDE = (
        "How to tokenize the text. bpe and sentencepiece train a vocabulary of the given size on the text; char and "
        "byte need no training. Preparing runs in the background, and can be canceled."
    )

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    def compose(self) -> ComposeResult:
        data, tokenizer = self.config.data, self.config.tokenizer
        with Vertical(classes="dialog-box"):
            yield Static(Content(f"Prepare {clean(data.corpus)}"), classes="dialog-question")
            yield ChoiceList(*(Option(Content(f"{kind}: {about}"), id=kind) for kind, about in KINDS.items()))
            yield Input(str(tokenizer.vocab_size), id="vocabulary")
            yield Input(f"{data.size_mb:g}", id="megabytes")
            yield Static("", classes="dialog-problem", markup=False)
            yield Static(Content("Press Enter to prepare, Tab for the next field."), classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one("#vocabulary").border_title = "vocabulary size"
        megabytes = self.query_one("#megabytes")
        megabytes.border_title = "megabytes of text"
        megabytes.display = self.config.data.corpus in BUILT_IN
        listing = self.query_one(OptionList)
        listing.highlighted = 0
        listing.focus()

    @property
    def kind(self) -> str:
        return list(KINDS)[self.query_one(OptionList).highlighted or 0]

    def to_config(self) -> RunConfig:
        """The configuration from the fields. Raises ConfigError if it is invalid."""
        overrides = [("tokenizer.kind", self.kind), ("model.context", "1")]  # accepts a text of any length
        if self.kind in SIZED:
            overrides.append(("tokenizer.vocab_size", self.query_one("#vocabulary", Input).value))
        if self.config.data.corpus in BUILT_IN:
            overrides.append(("data.size_mb", self.query_one("#megabytes", Input).value))
        return with_overrides(self.config, overrides)

    @on(Input.Changed)
    @on(OptionList.OptionHighlighted)
    def _check(self) -> None:
        problem = problem_of(self.to_config)
        self.query_one("#vocabulary").disabled = self.kind not in SIZED
        self.show_problem(problem)

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _accept(self) -> None:
        if not problem_of(self.to_config):  # a problem is already shown
            self.dismiss(self.to_config())


class AskField(Ask):
    """Offers the fields that contain text, each with an example."""

    def __init__(self, needed: FieldNeeded) -> None:
        others = f" Lists and objects cannot be used: {name_some(needed.others)}." if needed.others else ""
        question = f'The rows of {needed.path} have no field "text". Which field contains the text?{others}'
        answers = [
            Answer(CHOSEN + name, clean(f"{one_line(name)}: {one_line(example)}"))
            for name, example in needed.fields.items()
        ]
        super().__init__(clean(question), [*answers, Answer("", "Cancel")])
