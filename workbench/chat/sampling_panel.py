"""The panel of sampling parameters: input is checked at once and applies from the next token on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus, Resize
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, Label, Static

from llm.config import DecodeConfig, Field, fields_of, parse_value
from llm.errors import UserError
from workbench.chat.pipeline_order import ProcessorInfo

FIRST = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "repetition_window",
    "max_tokens",
    "seed",
)
"""The parameters shown first, in this order; the others follow in the order of the schema."""

DEBOUNCE_SECONDS = 0.7
LINES_BELOW = 11  # lines of the order and the help


def parameter_fields() -> list[Field]:
    """All parameters, in the order of the panel."""
    fields = {field.name: field for field in fields_of(DecodeConfig)}
    return [fields[name] for name in FIRST] + [field for name, field in fields.items() if name not in FIRST]


def format_value(value: Any) -> str:
    """A value as the user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value) if not any(set(item) & set(',\n"') for item in value) else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class ParameterRow(Horizontal):
    """The name and the value of one parameter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next parameter", id="knobs.next", show=False),
        Binding("up", "app.focus_previous", "Previous parameter", id="knobs.before", show=False),
    ]

    def __init__(self, field: Field) -> None:
        super().__init__(id=f"param-{field.name.replace('_', '-')}")
        self.field = field

    def compose(self) -> ComposeResult:
        yield Label(Content(self.field.name.replace("_", " ")))
        yield Input(compact=True, select_on_focus=True)


class SamplingPanel(Vertical):
    """A field per sampling parameter. `params` are the valid values; an invalid input is marked and ignored."""

    DEFAULT_CSS = """
    SamplingPanel {
        width: 34; border-left: solid $panel-lighten-2; padding: 0 0 0 1;
        VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
        ParameterRow { height: 1; }
        ParameterRow Label { width: 21; color: $text-muted; }
        ParameterRow.changed Label { color: $accent; text-style: bold; }
        ParameterRow Input { width: 1fr; background: $panel; }
        ParameterRow Input:focus { background: $primary 30%; }
        ParameterRow.wrong Input { background: $error 40%; }
        #sampling-order { height: auto; max-height: 6; padding: 1 0 0 0; }
        #sampling-help { height: 5; color: $text-muted; border-top: solid $panel-lighten-2; }
        #sampling-help.wrong { color: $error; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "default", "Default", id="knobs.default", key_display="^l"),
        Binding("f8", "screen.knob_presets", "Presets", id="chat.knob-presets"),
    ]

    class Changed(Message):
        """A parameter has a new valid value."""

        def __init__(self, params: DecodeConfig) -> None:
            super().__init__()
            self.params = params

    def __init__(self, params: DecodeConfig, id: str | None = None) -> None:
        super().__init__(id=id)
        self.params = params
        self.defaults = params
        self.debounced = False
        """Whether `Changed` waits for Enter or a pause in typing, since an incomplete number is often valid."""
        self._typing: Timer | None = None
        self._processors_in_order: Callable[[DecodeConfig], Sequence[ProcessorInfo]] | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            for field in parameter_fields()[: len(FIRST)]:
                yield ParameterRow(field)
        yield Static(id="sampling-order", markup=False)
        yield Static("f2: all parameters", id="sampling-help", markup=False)

    def on_mount(self) -> None:
        self._fill()

    def set_defaults(self, defaults: DecodeConfig) -> None:
        """Use the defaults of a model's run; values that the user changed stay."""
        changed = {
            field.name: getattr(self.params, field.name)
            for field in parameter_fields()
            if getattr(self.params, field.name) != getattr(self.defaults, field.name)
        }
        self.defaults = defaults
        self._apply(replace(defaults, **changed))
        self._fill()

    def set_value(self, name: str, value: Any) -> None:
        """Set one parameter."""
        self._apply(replace(self.params, **{name: value}))
        self._fill()

    def set_all(self, params: DecodeConfig) -> None:
        """Set all parameters."""
        self._apply(params)
        self._fill()

    def show_order(self, processors_in_order: Callable[[DecodeConfig], Sequence[ProcessorInfo]]) -> None:
        """Show the order of the logits processors, which `processors_in_order` returns."""
        self._processors_in_order = processors_in_order
        self._draw_order()

    def _draw_order(self) -> None:
        """Show the active processors in order."""
        if self._processors_in_order is None:
            return
        try:
            names = [one.name for one in self._processors_in_order(self.params) if one.active]
            content = Content.assemble(
                ("logits → ", "dim"), " → ".join(names), (" → " if names else "", ""), ("sample", "dim")
            )
        except UserError as error:
            content = Content.styled(str(error), "$error")
        self.query_one("#sampling-order", Static).update(content)

    def _position_of(self, name: str) -> str:
        """The positions in the order of the processors that use a parameter."""
        try:
            processors = self._processors_in_order(self.params) if self._processors_in_order is not None else []
        except UserError:
            return ""
        found = [str(number) for number, one in enumerate(processors, 1) if name in one.params]
        return f" (step {' and '.join(found)} of {len(processors)})" if found else ""

    def action_default(self) -> None:
        """Reset the focused parameter to its default."""
        row = self.screen.focused.parent if self.screen.focused is not None else None
        if isinstance(row, ParameterRow):
            self.set_value(row.field.name, getattr(self.defaults, row.field.name))

    def _fill(self) -> None:
        """Fill the fields with the valid values."""
        for row in self.query(ParameterRow):
            text = format_value(getattr(self.params, row.field.name))
            for field in row.query(Input).results():  # none while the row is being mounted
                if field.value != text:
                    with self.prevent(Input.Changed):
                        field.value = text
            self._mark(row, "")

    def _apply(self, params: DecodeConfig) -> None:
        if params != self.params:
            self.params = params
            self._draw_order()
            if self._typing is not None:
                self._typing.stop()
            self._typing = self.set_timer(DEBOUNCE_SECONDS, self._emit) if self.debounced else None
            if self._typing is None:
                self._emit()

    @on(Input.Submitted)
    def _emit(self) -> None:
        self.post_message(self.Changed(self.params))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        row = event.input.parent
        if not isinstance(row, ParameterRow):
            return
        event.stop()
        try:
            value = parse_value(row.field, event.value)
        except ValueError as error:
            self._mark(row, str(error))
            return
        self._apply(replace(self.params, **{row.field.name: value}))
        self._mark(row, "")

    def on_resize(self, event: Resize) -> None:
        """Show all parameters if there is room."""
        if event.size.height >= len(parameter_fields()) + LINES_BELOW:
            self.call_after_refresh(self.show_all)

    async def show_all(self) -> None:
        """Mount the remaining fields. Forty fields take a while, so they are mounted on demand."""
        rest = parameter_fields()[len(self.query(ParameterRow)) :]
        if rest:
            await self.query_one(VerticalScroll).mount_all(ParameterRow(field) for field in rest)
            self._fill()
            self._help("f2: sampling parameters", wrong=False)

    async def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Show the help of the focused parameter."""
        await self.show_all()
        row = event.widget.parent
        if isinstance(row, ParameterRow):
            self._explain(row.field)

    def _mark(self, row: ParameterRow, problem: str) -> None:
        name = row.field.name
        row.set_class(bool(problem), "wrong")
        row.set_class(getattr(self.params, name) != getattr(self.defaults, name), "changed")
        if problem:
            self._help(f"{name} {problem}", wrong=True)
        elif row.has_focus_within:
            self._explain(row.field)

    def _explain(self, field: Field) -> None:
        self._help(field.help + self._position_of(field.name), wrong=False)

    def _help(self, text: str, *, wrong: bool) -> None:
        label = self.query_one("#sampling-help", Static)
        label.update(Content(text))
        label.set_class(wrong, "wrong")
