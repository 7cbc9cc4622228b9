"""Every field of a configuration: its value, what it is for, what it may hold; checked while it is typed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.config import (
    Field,
    RunConfig,
    check,
    check_own_name,
    diff,
    fields_of,
    get_value,
    parse_value,
    save_preset,
)
from llm.errors import Problem, UserError
from workbench.presets.preflight import expected_speed
from workbench.presets.summary import change_lines, costs, format_value
from workbench.text import clean
from workbench.ui.dialogs import AskText, Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.lists import BESIDE, ChoiceList


@dataclass(frozen=True)
class EditResult:
    """The edited configuration; `saved_as` names the preset it was saved as, `start` asks to train it now."""

    config: RunConfig
    saved_as: str = ""
    start: bool = False


class EditScreen(Modal[EditResult]):
    """A list of fields by section, a line to type a value into, and the field's help."""

    NAME = "Fields"
    GUIDE = (
        "Enter on a field lets you type a value, checked as you type; space goes to the next choice of a field that "
        "has choices. Changed fields are marked with ●, and c lists those alone, which is the difference from the "
        "preset. Escape goes back one layer, and keeps what you changed."
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-beside")]  # noqa: RUF012 - as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="edit.back"),
        Binding("ctrl+s", "save_as", "Save as", id="edit.save"),
        Binding("ctrl+r", "train", "Train", id="edit.train"),
        Binding("space", "next_choice", "Next", id="edit.next"),
        Binding("d", "reset", "Reset", id="edit.reset"),
        Binding("c", "changed_only", "Changed", id="edit.changed"),
        Binding("slash", "filter", "Filter", id="edit.filter", key_display="/"),
    ]

    BASE = "preset"
    """What the unchanged values are called."""

    def __init__(self, home: Path, name: str, base: RunConfig, config: RunConfig) -> None:
        super().__init__()
        self.home = home
        self.preset_name = name
        self.base = base
        self.config = config
        self.fields = {field.path: field for field in fields_of(RunConfig)}
        self.changed_only = False
        self.shown_path = ""
        """The field whose value is in the line to type into."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="edit-form"):
            with Vertical(id="edit-box"):
                yield Static(id="edit-title", markup=False)
                yield Input(placeholder="filter by name or help", id="edit-filter")
                yield ChoiceList(id="edit-fields")
                yield Static(id="edit-help", markup=False)
                yield Input(id="edit-value")
                yield Static(id="edit-problem", markup=False)
                yield KeyLine()
            with VerticalScroll(id="edit-side", can_focus=False):
                yield Static(id="edit-costs", markup=False)

    def on_mount(self) -> None:
        self.query_one("#edit-filter").display = False
        self._fill()
        self.listing.focus()

    @property
    def listing(self) -> OptionList:
        return self.query_one("#edit-fields", OptionList)

    @property
    def value_line(self) -> Input:
        return self.query_one("#edit-value", Input)

    @property
    def field(self) -> Field | None:
        """The marked field."""
        index = self.listing.highlighted
        identity = self.listing.get_option_at_index(index).id if index is not None else None
        return self.fields[identity] if identity is not None else None

    def focus_guide(self) -> str:
        """The help of the marked field."""
        field = self.field
        return f"{field.path}: {field.help}\n{limits(field)}".rstrip() if field is not None else ""

    def problems(self) -> list[Problem]:
        """What stands against training what is shown."""
        return check(self.config)

    # --- showing

    def _fill(self, *, mark_first: bool = False) -> None:
        """List the fields that match the filter, keeping the mark where it is, or putting it on the first."""
        marked = self.field if not mark_first else None
        words = self.query_one("#edit-filter", Input).value.lower().split()
        options: list[Option] = []
        section = ""
        for field in self._wanted(words):
            if field.section != section:
                section = field.section
                options.append(Option(Content.styled(section, "bold $text-accent"), disabled=True))
            options.append(Option(self._entry(field), id=field.path))
        if not options:
            options = [
                Option(Content.styled(f"no {'changed ' * self.changed_only}field to show", "dim"), disabled=True)
            ]
        self.listing.set_options(options)
        paths = [option.id for option in options]
        wanted = marked.path if marked is not None and marked.path in paths else next(filter(None, paths), None)
        if wanted is not None:
            self.listing.highlighted = paths.index(wanted)
            self.call_after_refresh(self.listing.scroll_to_highlight)  # only then is it known how long the list is
        self._show_title()

    def _entry(self, field: Field) -> Content:
        value, before = get_value(self.config, field.path), get_value(self.base, field.path)
        if not self._is_changed(field):
            return Content.assemble(f"  {field.name:<22} ", format_value(value))
        was = f"  ({self.BASE}: {format_value(before)})"
        return Content.assemble((f"● {field.name:<22} {format_value(value)}", "bold"), (was, BESIDE))

    def _wanted(self, words: list[str]) -> list[Field]:
        """The fields to list: those with all the words in their path come before those that have some in their help.
        Where only changed ones are asked for, no others."""
        fields = [field for field in self.fields.values() if not self.changed_only or self._is_changed(field)]
        found = [field for field in fields if all(word in f"{field.path} {field.help}".lower() for word in words)]
        return sorted(found, key=lambda field: not all(word in field.path for word in words))

    def _is_changed(self, field: Field) -> bool:
        return bool(get_value(self.config, field.path) != get_value(self.base, field.path))

    def _show_title(self) -> None:
        count = len(diff(self.base, self.config))
        problems = self.problems()
        title = f"{self.preset_name}: {count} changed" if count else f"{self.preset_name}: nothing changed"
        self.query_one("#edit-title", Static).update(Content.styled(clean(title), "bold"))
        text = "\n".join(clean(str(problem)) for problem in problems)
        self.query_one("#edit-problem", Static).update(Content.styled(text, "$text-error"))
        self.call_after_refresh(self._show_costs)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_costs)

    def _show_costs(self) -> None:
        """What training this would take, and what was changed, where there is room for it."""
        page = self.query_one("#edit-costs", Static)
        width = page.content_region.width
        if width:
            speed = expected_speed(self.home, self.config)
            lines = [Content.styled("What it takes", "bold"), Content(""), *costs(self.config, None, width, speed)]
            if changed := change_lines(self.base, self.config):
                lines += [Content(""), Content.styled(f"Differs from the {self.BASE}", "bold"), *changed]
            page.update(Content("\n").join(lines))

    @on(OptionList.OptionHighlighted)
    def _highlighted(self) -> None:
        field = self.field
        if field is None:
            return
        self.query_one("#edit-help", Static).update(Content(self.focus_guide()))
        self._show_value(field)

    def _show_value(self, field: Field) -> None:
        """Put the field's value into the line to type into."""
        self.shown_path = field.path
        with self.prevent(Input.Changed):
            self.value_line.value = typed(get_value(self.config, field.path))

    # --- changing

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.value_line.focus()

    @on(Input.Changed, "#edit-value")
    def _check_value(self, event: Input.Changed) -> None:
        field = self.field
        if field is not None:
            problem = problem_with(field, event.value)
            text = f"{field.name} {problem}" if problem else ""
            self.query_one("#edit-problem", Static).update(Content.styled(clean(text), "$text-error"))

    @on(Input.Submitted, "#edit-value")
    def _accept_value(self, event: Input.Submitted) -> None:
        field = self.field
        if field is not None and not problem_with(field, event.value):
            self._assign(field, event.value)
            self.listing.focus()

    def _assign(self, field: Field, text: str) -> None:
        """Take the value over. Contradictions with other fields are shown, and may be mended there."""
        self.config = assigned(self.config, field, parse_value(field, text))
        self._show_value(field)
        self._fill()

    def _take_typed(self) -> bool:
        """Take over a value that was typed and not yet accepted; False, back in its line, if it cannot be a value."""
        field, text = self.fields.get(self.shown_path), self.value_line.value
        if field is None or text == typed(get_value(self.config, field.path)):
            return True
        if problem_with(field, text):
            self.value_line.focus()
            return False
        self._assign(field, text)
        return True

    def action_next_choice(self) -> None:
        field = self.field
        if field is None or not (field.choices or field.type is bool):
            return
        choices = field.choices or ("false", "true")
        place = choices.index(typed(get_value(self.config, field.path)))
        self._assign(field, choices[(place + 1) % len(choices)])

    def action_reset(self) -> None:
        """Back to the preset's own value."""
        if self.field is not None:
            self._assign(self.field, typed(get_value(self.base, self.field.path)))

    # --- moving

    def action_changed_only(self) -> None:
        """The difference from the preset alone, or all fields."""
        self.changed_only = not self.changed_only
        self._fill()

    def action_filter(self) -> None:
        line = self.query_one("#edit-filter", Input)
        line.display = True
        line.focus()

    @on(Input.Changed, "#edit-filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self._fill(mark_first=bool(event.value))

    @on(Input.Submitted, "#edit-filter")
    def _filter_done(self) -> None:
        self.listing.focus()

    def action_back(self) -> None:
        """One layer out: from a line to the list, from a filter to all fields, from the list to the presets."""
        line = self.query_one("#edit-filter", Input)
        if self.value_line.has_focus:
            self._highlighted()
            self._show_title()
            self.listing.focus()
        elif line.display:
            line.value = ""
            line.display = False
            self.listing.focus()
        else:
            self.action_leave()

    # --- leaving

    def action_leave(self) -> None:
        """Back to the presets with what was changed."""
        self.dismiss(EditResult(self.config))

    def action_train(self) -> None:
        """Train what is shown."""
        if self._take_typed() and not self.problems():
            self.dismiss(EditResult(self.config, start=True))

    def action_save_as(self) -> None:
        """Keep it as a preset of one's own."""
        if self._take_typed() and not self.problems():
            question = "Save as a preset of yours, called:"
            self.app.push_screen(
                AskText(question, value=f"my-{self.preset_name}", problem_of=preset_name_problem), self._save
            )

    def _save(self, name: str | None) -> None:
        if not name:
            return
        try:
            save_preset(self.home, name, self.config, extends=None if name == self.preset_name else self.preset_name)
        except UserError as error:
            self.notify(clean(str(error)), severity="error", markup=False)
            return
        self.dismiss(EditResult(self.config, saved_as=name))


def problem_with(field: Field, text: str) -> str:
    """Why `text` cannot be a value of `field`; "" if it can."""
    try:
        parse_value(field, text)
    except ValueError as error:
        return str(error)
    return ""


def preset_name_problem(name: str) -> str:
    """Why a preset of one's own cannot be called so; "" if it can."""
    try:
        check_own_name(name)
    except UserError as error:
        return str(error)
    return ""


def limits(field: Field) -> str:
    """What the field may hold, in words."""
    if field.choices:
        return "one of " + ", ".join(field.choices)
    if field.type is bool:
        return "true or false"
    parts = []
    if field.low is not None:
        parts.append(f"at least {field.low:g}")
    if field.above is not None:
        parts.append(f"above {field.above:g}")
    if field.high is not None:
        parts.append(f"at most {field.high:g}")
    kind = {int: "a whole number", float: "a number", tuple: "a list, separated by commas"}.get(field.type, "text")
    return ", ".join([kind, *parts]) + ("; may be changed while training" if field.live else "")


def typed(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def assigned(config: RunConfig, field: Field, value: Any) -> RunConfig:
    """`config` with one field changed, whether or not it then contradicts another."""
    section, _, name = field.path.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})
