"""Dialogs: a question, a text, a wait, the help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen, ScreenResultType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.config import RunConfig, fields_of, parse_value
from workbench.text import clean
from workbench.ui.closing import ClosesOnce
from workbench.ui.host import Host, host_of
from workbench.ui.keys import EVERYWHERE, HERE, SCREEN, guide_of_focus, working_keys
from workbench.ui.lists import ChoiceList


@dataclass(frozen=True)
class Answer:
    """An answer of a dialog: what it returns, and its label."""

    value: str
    label: str


@runtime_checkable
class Guided(Protocol):
    """A screen with help for the focused widget."""

    def focus_guide(self) -> str: ...


class Modal(ModalScreen[ScreenResultType], ClosesOnce[ScreenResultType]):
    """A window over a screen. `?` shows `GUIDE`, and of `GUIDES` (by widget id) the help for the focused widget."""

    NAME: ClassVar[str] = ""
    GUIDE: ClassVar[str] = ""
    GUIDES: ClassVar[dict[str, str]] = {}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "app.help", "Help", id="app.help"),
    ]

    @property
    def workbench(self) -> Host:
        """The app, with its home directory and its training service."""
        return host_of(self)

    def focus_guide(self) -> str:
        """Help for the focused widget, "" for none."""
        return guide_of_focus(self, self.GUIDES)

    def action_leave(self) -> None:
        """Close without a result."""
        self.dismiss(None)


class Form(Modal[ScreenResultType]):
    """A window with fields. Tab moves between them, esc closes it without a result; a line of the class
    `dialog-problem` says what is wrong with them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("tab", "app.focus_next", "Next pane", id="screen.next", show=False),
        Binding("shift+tab", "app.focus_previous", "Previous pane", id="screen.previous", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(classes="dialog")

    def show_problem(self, problem: str) -> None:
        """Show what is wrong, "" for nothing."""
        self.query_one(".dialog-problem", Static).update(Content(clean(problem)))


class Ask(Modal[str]):
    """A question with a few answers; the first is preselected. Returns the chosen value, "" for none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Cancel", id="dialog.cancel")]

    def __init__(self, question: str, answers: Sequence[Answer]) -> None:
        super().__init__(classes="dialog")
        self.question = question
        self.answers = answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.question), classes="dialog-question")
            yield ChoiceList(*(Option(Content(answer.label), id=answer.value) for answer in self.answers))

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _answer(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id or "")


class QuitDialog(Ask):
    """What to do with the run in training; `waiting` runs stay in the queue. `unsaved` is why the last attempt to save
    failed, "" if it did not; then quitting without saving is offered."""

    def __init__(self, run_name: str, waiting: int, unsaved: str = "") -> None:
        runs = "1 run stays" if waiting == 1 else f"{waiting} runs stay"
        queue = f"\n{runs} in the queue; start the queue with w on the Runs screen." if waiting else ""
        refused = f"\n{unsaved}" if unsaved else ""
        lose = [Answer("discard", "Quit without saving (loses the steps since the last checkpoint)")]
        super().__init__(
            f"{run_name} is still training.{queue}{refused}",
            [
                Answer("save", "Save and quit (resume later)"),
                Answer("detach", "Detach: keep training in the background"),
                Answer("", "Cancel"),
                *(lose if unsaved else []),
            ],
        )


class AskText(Form[str]):
    """A question answered by typing. `problem_of(text)` is what is wrong with the text, or ""; with `optional` the text
    may be empty. Returns None for cancel."""

    def __init__(
        self,
        question: str,
        *,
        value: str = "",
        problem_of: Callable[[str], str] = lambda text: "",
        optional: bool = False,
    ) -> None:
        super().__init__()
        self.question = question
        self.value = value
        self.problem_of = problem_of
        self.optional = optional

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.question), classes="dialog-question")
            yield Input(self.value)
            yield Static("", classes="dialog-problem", markup=False)
            yield Static("Press Enter to accept, Esc to cancel.", classes="dialog-hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _check(self, event: Input.Changed) -> None:
        self.show_problem(self.problem_of(event.value) if event.value else "")

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        if (event.value and not self.problem_of(event.value)) or (self.optional and not event.value):
            self.dismiss(event.value)


class AskSteps(AskText):
    """The step to which a run that has taken `done` steps is trained; `offered` is the default."""

    def __init__(self, question: str, done: int, offered: int) -> None:
        super().__init__(question, value=str(offered), problem_of=self._problem_of)
        self.done = done

    def _problem_of(self, text: str) -> str:
        (steps,) = (field for field in fields_of(RunConfig) if field.path == "train.steps")
        try:
            wanted = parse_value(steps, text)
        except ValueError as error:
            return clean(str(error))
        return "" if wanted > self.done else f"must be a whole number above {self.done}"


class Waiting(ModalScreen[None], ClosesOnce[None]):
    """Says what is being waited for. It has no keys."""

    def __init__(self, text: str) -> None:
        super().__init__(classes="dialog")
        self.text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(self.text), classes="dialog-question", id="waiting")

    def say(self, text: str) -> None:
        self.query_one("#waiting", Static).update(Content(text))


class Help(ModalScreen[None], ClosesOnce[None]):
    """Help for the screen below and its focused widget, and every key that works now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close", id="help.close"),
        Binding("j,down", "scroll_help(1)", "Down", id="help.down", show=False),
        Binding("k,up", "scroll_help(-1)", "Up", id="help.up", show=False),
    ]

    def __init__(self, below: Screen[Any]) -> None:
        super().__init__(classes="dialog")
        self.heading = (below.id or getattr(below, "NAME", "") or "help").capitalize()
        here = below.focus_guide() if isinstance(below, Guided) else ""
        self.guides = [guide for guide in (here, str(getattr(below, "GUIDE", ""))) if guide]
        self.keys = working_keys(below)

    def compose(self) -> ComposeResult:
        width = max((len(working.keys) for working in self.keys), default=0)
        lines = [Content(guide + "\n") for guide in self.guides]
        for place in (HERE, SCREEN, EVERYWHERE):
            here = [working for working in self.keys if working.place == place]
            lines += [Content.styled(place, "$foreground-muted")] if here else []
            lines += [
                Content.assemble((f"  {working.keys:<{width}}", "bold $text-accent"), f"  {working.text}")
                for working in here
            ]
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(Content.styled(self.heading, "bold"), classes="dialog-question")
            with VerticalScroll():
                yield Static(Content("\n").join(lines))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_scroll_help(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
