"""The dialog to choose a model."""

from __future__ import annotations

from pathlib import Path

from textual import work
from textual.content import Content
from textual.widgets.option_list import Option

from workbench.chat.model_choices import Choice, choices
from workbench.text import one_line
from workbench.ui.chooser import Chooser


class ChooseModel(Chooser[str]):
    """The models of all runs, filtered by typing. Returns a reference, or None."""

    NAME = "Models"
    GUIDE = "Type part of a run's name, a step, best, last or training to filter; Enter opens the selected model."
    PLACEHOLDER = "Filter, or RUN, RUN@best, RUN@STEP, RUN@live"
    HINT = "↑ ↓ select · Enter open · esc cancel"

    def __init__(self, home: Path, question: str = "Open a model") -> None:
        super().__init__()
        self.home, self.question = home, question
        self.choices: list[Choice] = []

    def on_mount(self) -> None:
        self.say("Loading …")
        self._load()

    @work(thread=True, group="choices")
    def _load(self) -> None:
        self.app.call_from_thread(self._show, choices(self.home))

    def _show(self, found: list[Choice]) -> None:
        if self.is_attached:  # false if it was closed meanwhile
            self.choices = found
            self.say(self.HINT if found else "No run has saved a checkpoint yet · esc cancel")
            self.narrow()

    def narrow(self) -> None:
        words = self.typed.casefold().split()
        self.fill([option_of(choice) for choice in self.choices if all(word in text_of(choice) for word in words)])

    def take(self, identity: str) -> None:
        self.dismiss(identity)

    def submit(self) -> None:
        """Return the selected model, or the typed text, such as RUN@best."""
        if self.marked or self.typed:
            self.dismiss(self.marked or self.typed)


def text_of(choice: Choice) -> str:
    """The text that is searched."""
    return f"{choice.reference} {choice.description}".casefold()


def option_of(choice: Choice) -> Option:
    text = Content.assemble(one_line(choice.reference), (f"  {choice.description}", "dim"))
    return Option(text, id=choice.reference)
