"""Small windows that ask one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option


@dataclass(frozen=True)
class Answer:
    """One way to answer: what the dialog returns, and what the person reads."""

    value: str
    label: str


class Ask(ModalScreen[str]):
    """A question with a few answers; the first is preselected. Returns the chosen value, or "" for none of them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Cancel")]

    def __init__(self, question: str, answers: Sequence[Answer]) -> None:
        super().__init__(classes="dialog")
        self.question = question
        self.answers = answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.question), classes="dialog-question")
            yield OptionList(*(Option(Content(answer.label), id=answer.value) for answer in self.answers))

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _answer(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id or "")


class AskText(ModalScreen[str]):
    """A question answered by typing; `problem_of(text)` says what is wrong with it, or "". Returns "" for cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Cancel")]

    def __init__(self, question: str, *, value: str = "", problem_of: Callable[[str], str] = lambda text: "") -> None:
        super().__init__(classes="dialog")
        self.question = question
        self.value = value
        self.problem_of = problem_of

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.question), classes="dialog-question")
            yield Input(self.value)
            yield Static("", classes="dialog-problem", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _check(self, event: Input.Changed) -> None:
        problem = self.problem_of(event.value) if event.value else ""
        self.query_one(".dialog-problem", Static).update(Content(problem))

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        if event.value and not self.problem_of(event.value):
            self.dismiss(event.value)


class Waiting(ModalScreen[None]):
    """Says what is being waited for; has no key, since there is nothing to decide."""

    def __init__(self, text: str) -> None:
        super().__init__(classes="dialog")
        self.text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.text), classes="dialog-question", id="waiting")

    def say(self, text: str) -> None:
        self.query_one("#waiting", Static).update(Content(text))


class Help(ModalScreen[None]):
    """What one does on the screen below, and every key that works on it now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close"),
        Binding("j", "scroll_help(1)", "Down", show=False),
        Binding("k", "scroll_help(-1)", "Up", show=False),
    ]

    def __init__(self, title: str, guide: str, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__(classes="dialog")
        self.heading = title
        self.guide = guide
        self.keys = keys

    def compose(self) -> ComposeResult:
        width = max((len(key) for key, _ in self.keys), default=0)
        rows = [Content.assemble((f"{key:<{width}}", "bold $text-accent"), f"  {text}") for key, text in self.keys]
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(Content.styled(self.heading, "bold"), classes="dialog-question")
            with VerticalScroll():
                yield Static(Content("\n").join([Content(self.guide + "\n" if self.guide else ""), *rows]))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_scroll_help(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
