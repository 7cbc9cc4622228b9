"""The dialog that asks which field of the rows contains the text."""

from __future__ import annotations

from llm.data.text.file_kinds import name_some
from workbench.data.fields import FieldNeeded
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask

CHOSEN = "field "  # prefix of a field name in an answer, which distinguishes it from no answer


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
