"""The form with every field of a configuration; values are checked while they are typed."""

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
from llm.config.check import LENGTHS
from llm.errors import Problem, UserError, problem_of
from workbench.presets.fields import allowed_values, input_text, value_problem, with_field
from workbench.presets.preflight import expected_speed
from workbench.presets.summary import change_lines, costs, format_value
from workbench.text import clean
from workbench.ui.dialogs import AskText, Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.lists import DETAIL, ChoiceList, with_headings
from workbench.ui.notices import notify_error


@dataclass(frozen=True)
class EditResult:
    """The edited configuration; `saved_as` is the name of the preset it was saved as, `start` requests training."""

    config: RunConfig
    saved_as: str = ""
    start: bool = False


class EditScreen(Modal[EditResult]):
    """A list of fields by section, an input for the value of the selected field, and its help."""

    NAME = "Fields"
    GUIDE = (
        "Enter edits the selected field; the value is checked as you type. Space selects the next choice of a field "
        "with choices. ● marks changed fields; c shows only those. Escape goes back and keeps your changes."
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-columns")]  # noqa: RUF012 - as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="edit.back"),
        Binding("ctrl+s", "save_as", "Save as", id="edit.save"),
        Binding("ctrl+r", "train", "Train", id="edit.train"),
        Binding("space", "next_choice", "Next choice", id="edit.next"),
        Binding("d", "reset", "Reset", id="edit.reset"),
        Binding("c", "changed_only", "Changed only", id="edit.changed"),
        Binding("slash", "filter", "Filter", id="edit.filter", key_display="/"),
    ]

    BASE = "preset"
    """What the screen calls the configuration before the edits."""

    def __init__(self, home: Path, name: str, base: RunConfig, config: RunConfig) -> None:
        super().__init__()
        self.home = home
        self.preset_name = name
        self.base = base
        self.config = config
        self.fields = {field.path: field for field in fields_of(RunConfig)}
        self.changed_only = False
        self.shown_path = ""
        """The field whose value is in the input."""

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
        """The selected field."""
        index = self.listing.highlighted
        identity = self.listing.get_option_at_index(index).id if index is not None else None
        return self.fields[identity] if identity is not None else None

    def focus_guide(self) -> str:
        """The help of the selected field."""
        field = self.field
        return f"{field.path}: {field.help}\n{allowed_values(field)}".rstrip() if field is not None else ""

    def problems(self) -> list[Problem]:
        """The problems of the configuration."""
        return check(self.config)

    # --- showing

    def _fill(self, *, select_first: bool = False) -> None:
        """List the fields that match the filter. Keep the selected field, or select the first one."""
        selected = self.field if not select_first else None
        words = self.query_one("#edit-filter", Input).value.lower().split()
        options = with_headings(
            (field.section, Option(self._entry(field), id=field.path)) for field in self._matching(words)
        )
        if not options:
            options = [Option(Content.styled(f"no {'changed ' * self.changed_only}fields", "dim"), disabled=True)]
        self.listing.set_options(options)
        paths = [option.id for option in options]
        path = selected.path if selected is not None and selected.path in paths else next(filter(None, paths), None)
        if path is not None:
            self.listing.highlighted = paths.index(path)
            self.call_after_refresh(self.listing.scroll_to_highlight)  # the list has its height after layout
        self._show_title()

    def _entry(self, field: Field) -> Content:
        value, before = get_value(self.config, field.path), get_value(self.base, field.path)
        if not self._is_changed(field):
            return Content.assemble(f"  {field.name:<22} ", format_value(value))
        was = f"  ({self.BASE}: {format_value(before)})"
        return Content.assemble((f"● {field.name:<22} {format_value(value)}", "bold"), (was, DETAIL))

    def _matching(self, words: list[str]) -> list[Field]:
        """The fields whose path or help contains all words; those whose path contains them come first. Only changed
        fields if `changed_only`."""
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
        """Show the costs of training and the changes, if there is room."""
        pages = self.query("#edit-costs")
        if not pages:
            return  # the screen was closed before the refresh
        page = pages.first(Static)
        width = page.content_region.width
        if width:
            speed = expected_speed(self.home, self.config)
            lines = [Content.styled("Costs", "bold"), Content(""), *costs(self.config, None, width, speed)]
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
        self.shown_path = field.path
        with self.prevent(Input.Changed):
            self.value_line.value = input_text(get_value(self.config, field.path))

    # --- changing

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.value_line.focus()

    @on(Input.Changed, "#edit-value")
    def _check_value(self, event: Input.Changed) -> None:
        field = self.field
        if field is not None:
            problem = value_problem(field, event.value)
            text = f"{field.name} {problem}" if problem else ""
            self.query_one("#edit-problem", Static).update(Content.styled(clean(text), "$text-error"))

    @on(Input.Submitted, "#edit-value")
    def _accept_value(self, event: Input.Submitted) -> None:
        field = self.field
        if field is not None and not value_problem(field, event.value):
            self._assign(field, event.value)
            self.listing.focus()

    def _assign(self, field: Field, text: str) -> None:
        """Set the field. A length (steps, minutes, …) replaces the others; other contradictions become problems."""
        value = parse_value(field, text)
        self.config = with_field(self.config, field, value)
        if value and field.path in {f"train.{name}" for name in LENGTHS}:
            others: dict[str, Any] = {name: 0 for name in LENGTHS if f"train.{name}" != field.path}
            self.config = replace(self.config, train=replace(self.config.train, **others))
        self._show_value(field)
        self._fill()

    def _apply_input(self) -> bool:
        """Apply a typed value that was not confirmed. Returns False, with the focus on the input, if it is invalid."""
        field, text = self.fields.get(self.shown_path), self.value_line.value
        if field is None or text == input_text(get_value(self.config, field.path)):
            return True
        if value_problem(field, text):
            self.value_line.focus()
            return False
        self._assign(field, text)
        return True

    def action_next_choice(self) -> None:
        field = self.field
        if field is None or not (field.choices or field.type is bool):
            return
        choices = field.choices or ("false", "true")
        index = choices.index(input_text(get_value(self.config, field.path)))
        self._assign(field, choices[(index + 1) % len(choices)])

    def action_reset(self) -> None:
        """Reset the field to the value of the preset."""
        if self.field is not None:
            self._assign(self.field, input_text(get_value(self.base, self.field.path)))

    # --- moving

    def action_changed_only(self) -> None:
        """Show only changed fields, or all."""
        self.changed_only = not self.changed_only
        self._fill()

    def action_filter(self) -> None:
        line = self.query_one("#edit-filter", Input)
        line.display = True
        line.focus()

    @on(Input.Changed, "#edit-filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self._fill(select_first=bool(event.value))

    @on(Input.Submitted, "#edit-filter")
    def _filter_done(self) -> None:
        self.listing.focus()

    def action_back(self) -> None:
        """Go from the input to the list, from the filtered list to all fields, and from there to the presets."""
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
        """Close and keep the changes."""
        self.dismiss(EditResult(self.config))

    def action_train(self) -> None:
        """Train this configuration."""
        if self._apply_input() and not self.problems():
            self.dismiss(EditResult(self.config, start=True))

    def action_save_as(self) -> None:
        """Save the configuration as a preset of the user."""
        if self._apply_input() and not self.problems():
            name = f"my-{self.preset_name}"
            dialog = AskText(
                "Save as preset:", value=name, problem_of=lambda text: problem_of(lambda: check_own_name(text))
            )
            self.app.push_screen(dialog, self._save)

    def _save(self, name: str | None) -> None:
        if not name:
            return
        try:
            save_preset(self.home, name, self.config, extends=None if name == self.preset_name else self.preset_name)
        except UserError as error:
            notify_error(self.app, error)
            return
        self.dismiss(EditResult(self.config, saved_as=name))
