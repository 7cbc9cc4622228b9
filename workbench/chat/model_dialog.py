"""Choosing what to talk to."""

from __future__ import annotations

from pathlib import Path

from textual import work
from textual.content import Content
from textual.widgets.option_list import Option

from workbench.chat.models import Choice, choices
from workbench.text import one_line
from workbench.ui.chooser import Chooser


class ChooseModel(Chooser[str]):
    """The models of all runs, narrowed by typing. Returns a reference, or None."""

    NAME = "Models"
    GUIDE = "Type words of a run's name, a step, best, last or training; Enter takes the marked one."
    PLACEHOLDER = "type to narrow; or RUN, RUN@best, RUN@STEP, RUN@live"
    HINT = "↑ ↓ choose · Enter takes it · esc"

    def __init__(self, home: Path, question: str = "Talk to which model?") -> None:
        super().__init__()
        self.home, self.question = home, question
        self.choices: list[Choice] = []

    def on_mount(self) -> None:
        self.say("reading …")
        self._find()

    @work(thread=True, group="choices")
    def _find(self) -> None:
        self.app.call_from_thread(self._found, choices(self.home))

    def _found(self, found: list[Choice]) -> None:
        if self.is_attached:  # else it was closed while the runs were read
            self.choices = found
            self.say(self.HINT if found else "no run has saved a checkpoint yet · esc")
            self.narrow()

    def narrow(self) -> None:
        words = self.typed.casefold().split()
        self.fill([option_of(choice) for choice in self.choices if all(word in text_of(choice) for word in words)])

    def take(self, identity: str) -> None:
        self.dismiss(identity)

    def submit(self) -> None:
        """The marked line, or what is typed, where it is in none, as RUN@best."""
        if self.marked or self.typed:
            self.dismiss(self.marked or self.typed)


def text_of(choice: Choice) -> str:
    """What is searched for words."""
    return f"{choice.reference} {choice.description}".casefold()


def option_of(choice: Choice) -> Option:
    text = Content.assemble(one_line(choice.reference), (f"  {choice.description}", "dim"))
    return Option(text, id=choice.reference)
