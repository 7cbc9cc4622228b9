"""The dialog that shrinks a preset to fit this machine and a time limit."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from llm.config import RunConfig, with_overrides
from llm.errors import UserError
from llm.training.batch_plan import TYPICAL_FLOPS
from workbench.formatting import format_flops
from workbench.presets.estimate import fitting_overrides
from workbench.presets.preflight import Speed
from workbench.presets.summary import change_lines
from workbench.text import clean
from workbench.ui.dialogs import Form

MINUTES = 10


class FitDialog(Form[RunConfig | None]):
    """Asks for a time limit in minutes, shows the necessary changes, and returns the changed configuration."""

    NAME = "Fit"
    GUIDE = (
        "Enter how many minutes the run may take on this machine. The changes it needs are listed below; Enter "
        "applies them to the preset, which can still be edited."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "scroll_changes(1)", "Down", id="fit.down", show=False),
        Binding("up", "scroll_changes(-1)", "Up", id="fit.up", show=False),
    ]

    def __init__(self, name: str, config: RunConfig, speed: Speed | None) -> None:
        super().__init__()
        self.preset_name = name
        self.config = config
        self.speed = speed
        self.flops_per_second = speed.flops_per_second if speed is not None else TYPICAL_FLOPS
        self.fitted: RunConfig | None = None

    def compose(self) -> ComposeResult:
        source = f"measured with {self.speed.name}" if self.speed is not None else "an estimate; p measures it"
        question = f"Fit {self.preset_name} to this machine ({format_flops(self.flops_per_second)}, {source}).\n"
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(Content(clean(question) + "Time limit in minutes; Enter applies the changes below:"))
            yield Input(str(MINUTES), id="fit-minutes")
            yield Static("", classes="dialog-problem", markup=False)
            with VerticalScroll(id="fit-scroll"):
                yield Static(id="fit-changes", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _minutes_changed(self, event: Input.Changed) -> None:
        self.fitted, problem = self._fit(event.value)
        self.show_problem(problem)
        shown = change_lines(self.config, self.fitted) if self.fitted is not None else []
        nothing = [] if problem else [Content("No change is needed: it already fits.")]
        self.query_one("#fit-changes", Static).update(Content("\n").join(shown or nothing))

    def _fit(self, text: str) -> tuple[RunConfig | None, str]:
        try:
            minutes = float(text)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < 1e7:
            return None, "must be a number of minutes greater than 0"
        try:
            return with_overrides(self.config, fitting_overrides(self.config, self.flops_per_second, minutes)), ""
        except UserError as error:
            return None, str(error)

    @on(Input.Submitted)
    def _accept(self) -> None:
        if self.fitted is not None:
            self.dismiss(self.fitted if self.fitted != self.config else None)

    def action_scroll_changes(self, lines: int) -> None:
        self.query_one("#fit-scroll").scroll_relative(y=lines, animate=False)
