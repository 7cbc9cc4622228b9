"""Tokenize any text: an input, and its tokens below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static, TextArea

from llm.config import RunConfig
from workbench.chat.tokens import color_tokens
from workbench.formatting import plural

if TYPE_CHECKING:
    from llm.tokenizer import Tokenizer

MAX_CHARACTERS = 5000  # longer text is cut before tokenizing


class TokenPreview(Vertical):
    """The tokens of the typed text, by the tokenizer set last; by bytes until one is set."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.tokenizer: Tokenizer | None = None
        self.source = "bytes"
        self.with_ids = False

    def compose(self) -> ComposeResult:
        yield TextArea(id="try-text", tab_behavior="focus", placeholder="Press t and type a text to see its tokens")
        with VerticalScroll(id="try-page", can_focus=False):
            yield Static(id="try-tokens", markup=False)

    def on_mount(self) -> None:
        self.query_one(TextArea).border_title = "text"

    def edit(self) -> None:
        """Focus the input."""
        self.query_one(TextArea).focus()

    def use(self, tokenizer: Tokenizer, name: str) -> None:
        """Use this tokenizer."""
        self.tokenizer, self.source = tokenizer, name
        self.show()

    def show_ids(self, with_ids: bool) -> None:
        """Show or hide the ids of the tokens."""
        self.with_ids = with_ids
        self.show()

    @on(TextArea.Changed)
    def show(self) -> None:
        """Show the tokens of the text."""
        typed = self.query_one(TextArea).text
        target = self.query_one("#try-tokens", Static)
        if not typed:
            target.update("")
            return
        if self.tokenizer is None:
            from llm.tokenizer.byte import ByteTokenizer

            self.tokenizer = ByteTokenizer(RunConfig().tokenizer.special_tokens)
        text = typed[:MAX_CHARACTERS]
        ids = self.tokenizer.encode(text, special=True)
        size = len(text.encode("utf-8", "replace"))
        cut = f", of the first {MAX_CHARACTERS:,} characters" if len(typed) > MAX_CHARACTERS else ""
        head = f"{plural(len(ids), 'token')} ({self.source}), {size / max(1, len(ids)):.2f} bytes each{cut}\n"
        tokens = color_tokens(self.tokenizer, ids, with_ids=self.with_ids, monochrome=self.app.no_color)
        target.update(Content.assemble((head, "$foreground-muted"), tokens))
