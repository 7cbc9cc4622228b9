"""The dialog to choose a model."""

from __future__ import annotations

from pathlib import Path

from workbench.chat.model_choices import list_models
from workbench.ui.chooser import Chooser, Entry


class ChooseModel(Chooser[str]):
    """The models of all runs. Returns a reference, or None."""

    NAME = "Models"
    GUIDE = "Type part of a run's name, a step, best, last or training to filter. Enter opens the selected model."
    PLACEHOLDER = "Filter, or RUN, RUN@best, RUN@STEP, RUN@live"
    EMPTY = "No run has saved a checkpoint yet"

    def __init__(self, home: Path, question: str = "Open a model") -> None:
        super().__init__()
        self.home, self.question = home, question

    def load(self) -> list[Entry[str]]:
        return [
            Entry(one.reference, one.reference, one.description, f"{one.reference} {one.description}")
            for one in list_models(self.home)
        ]

    def submit(self) -> None:
        """Return the selected model, or the typed text, such as RUN@best."""
        if self.marked is not None or self.typed:
            self.dismiss(self.marked.value if self.marked is not None else self.typed)
