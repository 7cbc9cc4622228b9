"""Changing the live settings of a run in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from llm.config import Field, RunConfig, fields_of
from workbench.presets.fields import allowed_values, input_text, value_problem
from workbench.ui.dialogs import AskText, Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.lists import ChoiceList


class LiveSettingsDialog(Modal[tuple[str, str] | None]):
    """The live settings with their current values. Returns the path and the text of one change."""

    NAME = "Settings"
    GUIDE = (
        "The settings that can change while the run trains, with their current values. Enter asks for a new value. The "
        "trainer applies it before the next step and logs it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
    ]

    def __init__(self, value_of: Callable[[str], object]) -> None:
        """`value_of(path)` is the current value."""
        super().__init__(classes="dialog")
        self.value_of = value_of
        live = (field for field in fields_of(RunConfig) if field.live and field.section != "decode")
        self.fields = {field.path: field for field in live}

    def compose(self) -> ComposeResult:
        width = max(len(path) for path in self.fields)
        entries = (
            Content.assemble((f"{path:<{width}}  ", ""), (input_text(self.value_of(path)), "bold"))
            for path in self.fields
        )
        with Vertical(classes="dialog-box"):
            yield Static("Settings of the run in training", classes="dialog-question", markup=False)
            options = zip(entries, self.fields, strict=True)
            yield ChoiceList(*(Option(entry, id=path) for entry, path in options))
            yield Static(id="setting-help", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionHighlighted)
    def _explain(self, event: OptionList.OptionHighlighted) -> None:
        field = self.fields[event.option.id or ""]
        self.query_one("#setting-help", Static).update(Content(field.help))

    @on(OptionList.OptionSelected)
    def _ask(self, event: OptionList.OptionSelected) -> None:
        field = self.fields[event.option.id or ""]

        def accept(text: str | None) -> None:
            if text:
                self.dismiss((field.path, text))

        question = f"{field.path}: {field.help} ({allowed_values(field).partition(';')[0]})"
        value = input_text(self.value_of(field.path))
        self.app.push_screen(AskText(question, value=value, problem_of=lambda text: named_problem(field, text)), accept)


def named_problem(field: Field, text: str) -> str:
    problem = value_problem(field, text)
    return f"{field.name} {problem}" if problem else ""
