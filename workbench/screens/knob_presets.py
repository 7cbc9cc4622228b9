"""Named sets of knobs: taking one, keeping the present one under a name, forgetting one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.services.knob_presets import load_knob_presets, save_knob_preset, summary, with_seed_of
from workbench.text import one_line

HELP = "Enter takes one · a new name and Enter keeps the present knobs · ctrl+d forgets one"


class KnobPresets(ModalScreen[DecodeConfig | None]):
    """The presets, and a field for a name. Returns the knobs to use, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "move(1)", "Down", show=False),
        Binding("up", "move(-1)", "Up", show=False),
        Binding("ctrl+d", "forget", "Forget", priority=True),
    ]

    def __init__(self, home: Path, knobs: DecodeConfig) -> None:
        super().__init__(classes="dialog")
        self.home, self.knobs = home, knobs
        self.presets: dict[str, DecodeConfig] = {}
        self._moved = False  # the arrows say that one of the list is meant, not a new name

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static("Knob presets", classes="dialog-question")
            yield Input(placeholder="a name")
            yield OptionList()
            yield Static(HELP, id="knob-preset-help", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._read()

    def _read(self) -> None:
        try:
            self.presets = load_knob_presets(self.home)
        except UserError as error:
            self._say(str(error))
        self._narrow()

    @on(Input.Changed)
    def _narrow(self) -> None:
        self._moved = False
        typed = self.query_one(Input).value.strip().casefold()
        options = self.query_one(OptionList)
        options.clear_options()
        for name, knobs in self.presets.items():
            if typed in name.casefold():
                text = Content.assemble(one_line(name), (f"  {one_line(summary(knobs))}", "dim"))
                options.add_option(Option(text, id=name))
        options.highlighted = 0 if options.option_count else None

    def _say(self, text: str) -> None:
        self.query_one("#knob-preset-help", Static).update(Content(one_line(text)))

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            self._moved = True
            options.highlighted = ((options.highlighted or 0) + by) % options.option_count

    @property
    def _highlighted(self) -> str:
        options = self.query_one(OptionList)
        if options.highlighted is None:
            return ""
        return options.get_option_at_index(options.highlighted).id or ""

    def action_forget(self) -> None:
        if self._highlighted:
            try:
                save_knob_preset(self.home, self._highlighted, None)
            except UserError as error:
                self._say(str(error))
                return
            self._read()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self._take(event.option.id or "")

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        name = event.value.strip()
        if name in self.presets or not name:
            self._take(name or self._highlighted)
        elif self._moved and self._highlighted:
            self._take(self._highlighted)
        else:
            self._keep(name)

    def _take(self, name: str) -> None:
        if name in self.presets:
            self.dismiss(with_seed_of(self.presets[name], self.knobs))

    def _keep(self, name: str) -> None:
        """Keep the present knobs under a name that matches none."""
        try:
            save_knob_preset(self.home, name, self.knobs)
        except UserError as error:
            self._say(str(error))
            return
        self.dismiss(None)
        self.notify(f"the knobs are kept as {one_line(name)}", markup=False)
