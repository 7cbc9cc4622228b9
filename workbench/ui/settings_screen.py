"""The settings of the workbench: theme, redraws, smoothing, and every key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from workbench.ui.dialogs import Answer, Ask, AskText, Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.key_map import all_bindings, clash, group_of, keys_of
from workbench.ui.lists import ChoiceList, with_headings
from workbench.ui.settings import Settings, problem_with
from workbench.ui.themes import THEMES

NUMBERS = {
    "redraws_per_second": "chart redraws per second (0: automatic)",
    "smoothing": "default smoothing of the loss curve (0 to 0.999)",
}


class SettingsScreen(Modal[None]):
    """A list of settings and keys; changes apply at once and are saved."""

    GUIDE = (
        "Enter changes the selected line. For a key, press the new one; Backspace restores the default. Settings are "
        "saved in settings.toml of the home folder."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", id="settings.back"),
        Binding("backspace", "reset", "Reset", id="settings.usual"),
    ]

    def __init__(self) -> None:
        super().__init__(id="settings")
        self.bindings = all_bindings()

    def compose(self) -> ComposeResult:
        with Vertical(id="settings-box"):
            yield Static(Content.styled("Settings", "bold"))
            yield ChoiceList(id="settings-list")
            yield KeyLine()

    def on_mount(self) -> None:
        self._fill()
        self.listing.focus()

    @property
    def listing(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def marked(self) -> str:
        index = self.listing.highlighted
        return (self.listing.get_option_at_index(index).id or "") if index is not None else ""

    def _fill(self) -> None:
        marked, settings = self.marked or "theme", self.workbench.settings
        lines = [("theme", f"theme: {settings.theme}")]
        lines += [(name, f"{about}: {getattr(settings, name):g}") for name, about in NUMBERS.items()]
        options: list[Option] = [Option(Content(text), id=name) for name, text in lines]
        options += with_headings(
            (f"keys: {group_of(identity)}", Option(self._key_line(identity, bindings), id=identity))
            for identity, bindings in self.bindings.items()
        )
        self.listing.set_options(options)
        self.listing.highlighted = self.listing.get_option_index(marked)

    def _key_line(self, identity: str, bindings: list[Binding]) -> Content:
        own = self.workbench.settings.keys.get(identity)
        names = " / ".join(dict.fromkeys(binding.description or binding.action for binding in bindings))
        keys = own or keys_of(bindings)
        return Content.assemble((f"{keys:<26}", "bold"), f" {names}", ("  ● changed", "$text-accent") if own else "")

    @on(OptionList.OptionSelected, "#settings-list")
    def _change(self, event: OptionList.OptionSelected) -> None:
        name = event.option.id or ""
        settings = self.workbench.settings
        if name == "theme":
            answers = [Answer(theme.name, theme.name) for theme in THEMES]
            self.app.push_screen(Ask("Theme", answers), self._set_theme)
        elif name in NUMBERS:
            value = f"{getattr(settings, name):g}"
            self.app.push_screen(
                AskText(f"{NUMBERS[name]}:", value=value, problem_of=lambda text: number_problem(name, text)),
                lambda text: self._apply(with_value(settings, name, float(text))) if text else None,
            )
        elif name:
            about = " / ".join(dict.fromkeys(binding.description for binding in self.bindings[name]))
            self.app.push_screen(PressKey(name, about, settings), lambda key: self._set_key(name, key))

    def _set_theme(self, theme: str | None) -> None:
        if theme:
            self._apply(replace(self.workbench.settings, theme=theme))

    def _set_key(self, identity: str, key: str | None) -> None:
        if key is not None:
            settings = self.workbench.settings
            keys = {name: value for name, value in settings.keys.items() if name != identity}
            if key and key != keys_of(self.bindings[identity]):
                keys[identity] = key
            self._apply(replace(settings, keys=keys))

    def _apply(self, settings: Settings) -> None:
        self.workbench.change_settings(settings)
        self._fill()

    def action_reset(self) -> None:
        """Reset the selected key or setting to its default."""
        if self.marked in self.bindings:
            self._set_key(self.marked, "")
        elif self.marked:
            self._apply(with_value(self.workbench.settings, self.marked, getattr(Settings(), self.marked)))


def with_value(settings: Settings, name: str, value: Any) -> Settings:
    """A copy of the settings with one value changed."""
    return replace(settings, **{name: value})


def number_problem(name: str, text: str) -> str:
    """What is wrong with a number, or ""."""
    try:
        return problem_with(name, float(text))
    except ValueError:
        return "must be a number"


class PressKey(Modal[str]):
    """Waits for the new key of an action. Returns its name, "" for the default, None for no change."""

    def __init__(self, identity: str, about: str, settings: Settings) -> None:
        super().__init__(classes="dialog")
        self.identity, self.about, self.settings = identity, about, settings

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(Content(f"Press the new key for {self.about}."), classes="dialog-question")
            yield Static(Content("Backspace restores the default, Esc cancels."), classes="dialog-hint")
            yield Static("", classes="dialog-problem", markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
        elif event.key == "backspace":
            self.dismiss("")
        else:
            other = clash(self.identity, event.key, self.settings)
            if not other:
                self.dismiss(event.key)
            self.query_one(".dialog-problem", Static).update(Content(f"{event.key} is used by {other}"))
