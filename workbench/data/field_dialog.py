"""The question which field of rows holds the text."""

from __future__ import annotations

from llm.data.text.file_kinds import name_some
from workbench.data.fields import FieldNeeded
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask

CHOSEN = "field "  # before a field's name in an answer, so that no name is mistaken for "none"


class AskField(Ask):
    """Offers the fields that hold text, each with an example."""

    def __init__(self, needed: FieldNeeded) -> None:
        others = f" Lists and objects cannot be used: {name_some(needed.others)}." if needed.others else ""
        question = f'The rows of {needed.path} have no field "text". Which field holds the text?{others}'
        answers = [
            Answer(CHOSEN + name, clean(f"{one_line(name)}: {one_line(example)}"))
            for name, example in needed.fields.items()
        ]
        super().__init__(clean(question), [*answers, Answer("", "None of them: do not add it")])
