"""The line above the conversation: the model, and how much of its context is used."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from workbench.formatting import format_count
from workbench.text import one_line

CELLS = 8
"""Width of the meter."""


class ModelLine(Horizontal):
    """The model on the left, the context meter on the right."""

    DEFAULT_CSS = """
    ModelLine {
        height: 1; padding: 0 1; background: $panel;
        #model-facts { width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
        #model-context { width: auto; color: $text-muted; padding: 0 0 0 2; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(id="model-facts", markup=False)
        yield Static(id="model-context", markup=False)

    def say(self, text: str) -> None:
        """Show a message instead of a model."""
        self.query_one("#model-facts", Static).update(Content(one_line(text)))
        self.query_one("#model-context", Static).update("")

    def show(self, name: str, parameters: int, mode: str, *, in_training: bool) -> None:
        """Show a model; `mode` is completion or chat."""
        facts = ("in training" if in_training else "", mode, f"{format_count(parameters)} parameters")
        rest = "  ".join(fact for fact in facts if fact)
        self.query_one("#model-facts", Static).update(Content.assemble((one_line(name), "bold"), f"  {rest}"))

    def meter(self, used: int, context: int, dropped: int = 0) -> None:
        """Show that the window has `used` of `context` tokens, and that `dropped` older ones are outside it."""
        full = min(CELLS, -(-used * CELLS // max(1, context)))
        gone = f", {dropped} dropped" if dropped else ""
        bar = Content.assemble(("▰" * full, "$warning" if dropped else "$primary"), ("▱" * (CELLS - full), "dim"))
        self.query_one("#model-context", Static).update(Content.assemble("context ", bar, f" {used}/{context}{gone}"))
