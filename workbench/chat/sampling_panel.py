"""The decoding knobs in a column: what is typed is checked at once, and holds from the next token on."""

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
from workbench.chat.pipeline_order import Place

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
"""The knobs most people want, in the order they are shown; the others follow as they are declared."""

TYPING_SECONDS = 0.7
BENEATH = 11  # lines that the order and the help take at most


def parameter_fields() -> list[Field]:
    """All knobs, in the order of the panel."""
    fields = {field.name: field for field in fields_of(DecodeConfig)}
    return [fields[name] for name in FIRST] + [field for name, field in fields.items() if name not in FIRST]


def written(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value) if not any(set(item) & set(',\n"') for item in value) else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class ParameterRow(Horizontal):
    """One knob: its name and its value."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next knob", id="knobs.next", show=False),
        Binding("up", "app.focus_previous", "Knob before", id="knobs.before", show=False),
    ]

    def __init__(self, field: Field) -> None:
        super().__init__(id=f"knob-{field.name.replace('_', '-')}")
        self.field = field

    def compose(self) -> ComposeResult:
        yield Label(Content(self.field.name.replace("_", " ")))
        yield Input(compact=True, select_on_focus=True)


class SamplingPanel(Vertical):
    """Every decoding knob as a field. `params` is what is valid now; a wrong entry is marked and changes nothing."""

    DEFAULT_CSS = """
    KnobPanel {
        width: 34; border-left: solid $panel-lighten-2; padding: 0 0 0 1;
        VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
        KnobRow { height: 1; }
        KnobRow Label { width: 21; color: $text-muted; }
        KnobRow.changed Label { color: $accent; text-style: bold; }
        KnobRow Input { width: 1fr; background: $panel; }
        KnobRow Input:focus { background: $primary 30%; }
        KnobRow.wrong Input { background: $error 40%; }
        #knobs-order { height: auto; max-height: 6; padding: 1 0 0 0; }
        #knobs-help { height: 5; color: $text-muted; border-top: solid $panel-lighten-2; }
        #knobs-help.wrong { color: $error; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "default", "Usual value", id="knobs.default", key_display="^l"),
        Binding("f8", "screen.knob_presets", "Presets", id="chat.knob-presets"),
    ]

    class Changed(Message):
        """A knob has a new valid value."""

        def __init__(self, params: DecodeConfig) -> None:
            super().__init__()
            self.params = params

    def __init__(self, params: DecodeConfig, id: str | None = None) -> None:
        super().__init__(id=id)
        self.params = params
        self.usual = params
        self.patient = False
        """Whether `Changed` waits until nobody types on, or for Enter: a number half typed is another number."""
        self._typing: Timer | None = None
        self._in_order: Callable[[DecodeConfig], Sequence[Place]] | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            for field in parameter_fields()[: len(FIRST)]:
                yield ParameterRow(field)
        yield Static(id="knobs-order", markup=False)
        yield Static("f2: all knobs", id="knobs-help", markup=False)

    def on_mount(self) -> None:
        self._fill()

    def set_usual(self, usual: DecodeConfig) -> None:
        """The values that a model's run recommends. What the person has changed by hand stays as it is."""
        mine = {
            field.name: getattr(self.params, field.name)
            for field in parameter_fields()
            if getattr(self.params, field.name) != getattr(self.usual, field.name)
        }
        self.usual = usual
        self._become(replace(usual, **mine))
        self._fill()

    def set_value(self, name: str, value: Any) -> None:
        """Change one knob from outside, as a new seed for another reply."""
        self._become(replace(self.params, **{name: value}))
        self._fill()

    def set_all(self, params: DecodeConfig) -> None:
        """Change all knobs from outside, as to a preset."""
        self._become(params)
        self._fill()

    def show_order(self, in_order: Callable[[DecodeConfig], Sequence[Place]]) -> None:
        """From now on show in which order the knobs work, as `in_order` says."""
        self._in_order = in_order
        self._draw_order()

    def _draw_order(self) -> None:
        """What the logits go through, one after another."""
        if self._in_order is None:
            return
        try:
            names = [place.name for place in self._in_order(self.params) if place.active]
            content = Content.assemble(
                ("logits → ", "dim"), " → ".join(names), (" → " if names else "", ""), ("draw", "dim")
            )
        except UserError as error:
            content = Content.styled(str(error), "$error")
        self.query_one("#knobs-order", Static).update(content)

    def _place_of(self, name: str) -> str:
        """Where in the order a knob works, in words."""
        try:
            places = self._in_order(self.params) if self._in_order is not None else []
        except UserError:
            return ""
        found = [str(number) for number, place in enumerate(places, 1) if name in place.params]
        return f" (place {' and '.join(found)} of {len(places)} in the order)" if found else ""

    def action_default(self) -> None:
        """Put the knob that has the focus back to its usual value."""
        row = self.screen.focused.parent if self.screen.focused is not None else None
        if isinstance(row, ParameterRow):
            self.set_value(row.field.name, getattr(self.usual, row.field.name))

    def _fill(self) -> None:
        """Write the values into the fields; wrong entries are replaced."""
        for row in self.query(ParameterRow):
            text = written(getattr(self.params, row.field.name))
            for field in row.query(Input).results():  # none yet in a row that is just being made
                if field.value != text:
                    with self.prevent(Input.Changed):
                        field.value = text
            self._mark(row, "")

    def _become(self, params: DecodeConfig) -> None:
        if params != self.params:
            self.params = params
            self._draw_order()
            if self._typing is not None:
                self._typing.stop()
            self._typing = self.set_timer(TYPING_SECONDS, self._tell) if self.patient else None
            if self._typing is None:
                self._tell()

    @on(Input.Submitted)
    def _tell(self) -> None:
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
        self._become(replace(self.params, **{row.field.name: value}))
        self._mark(row, "")

    def on_resize(self, event: Resize) -> None:
        """Show all knobs where all have room."""
        if event.size.height >= len(parameter_fields()) + BENEATH:
            self.call_after_refresh(self.show_all)

    async def show_all(self) -> None:
        """Make the rest of the knobs: forty fields take a while, so it waits until there is room or they are wanted."""
        rest = parameter_fields()[len(self.query(ParameterRow)) :]
        if rest:
            await self.query_one(VerticalScroll).mount_all(ParameterRow(field) for field in rest)
            self._fill()
            self._help("f2: to the knobs", wrong=False)

    async def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Say what the knob does."""
        await self.show_all()
        row = event.widget.parent
        if isinstance(row, ParameterRow):
            self._explain(row.field)

    def _mark(self, row: ParameterRow, problem: str) -> None:
        name = row.field.name
        row.set_class(bool(problem), "wrong")
        row.set_class(getattr(self.params, name) != getattr(self.usual, name), "changed")
        if problem:
            self._help(f"{name} {problem}", wrong=True)
        elif row.has_focus_within:
            self._explain(row.field)

    def _explain(self, field: Field) -> None:
        self._help(field.help + self._place_of(field.name), wrong=False)

    def _help(self, text: str, *, wrong: bool) -> None:
        label = self.query_one("#knobs-help", Static)
        label.update(Content(text))
        label.set_class(wrong, "wrong")
