"""The dialog for sampling presets: use, save or delete one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets.option_list import Option

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.sampling_presets import load_sampling_presets, save_sampling_preset, summary, with_seed_of
from workbench.text import one_line
from workbench.ui.chooser import Chooser


class SamplingPresetsDialog(Chooser[DecodeConfig]):
    """The presets, and a field for a name. Returns the parameters to use, or None."""

    NAME = "Sampling presets"
    GUIDE = (
        "Enter uses the selected preset; the seed does not change. Type a new name to save the current parameters. "
        "Presets are stored in knobs.toml in the home directory."
    )
    QUESTION = "Sampling presets"
    PLACEHOLDER = "Filter, or a new name"
    HINT = "Enter use · new name + Enter save current · ctrl+d delete · esc cancel"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "delete", "Delete", id="knob-presets.forget", priority=True),
    ]

    def __init__(self, home: Path, params: DecodeConfig) -> None:
        super().__init__()
        self.home, self.params = home, params
        self.presets: dict[str, DecodeConfig] = {}
        self._moved = False  # the list was used: Enter means the selected preset and not a new name

    def on_mount(self) -> None:
        self._load()

    def _load(self) -> None:
        try:
            self.presets = load_sampling_presets(self.home)
        except UserError as error:
            self.say(str(error))
        self.narrow()

    def narrow(self) -> None:
        self._moved = False
        typed = self.typed.casefold()
        self.fill(
            [
                Option(Content.assemble(one_line(name), (f"  {one_line(summary(params))}", "dim")), id=name)
                for name, params in self.presets.items()
                if typed in name.casefold()
            ]
        )

    def action_move(self, by: int) -> None:
        self._moved = True
        super().action_move(by)

    def action_delete(self) -> None:
        """Delete the selected preset."""
        if self.marked:
            try:
                save_sampling_preset(self.home, self.marked, None)
            except UserError as error:
                self.say(str(error))
                return
            self._load()

    def take(self, identity: str) -> None:
        self.dismiss(with_seed_of(self.presets[identity], self.params))

    def submit(self) -> None:
        """Use the preset of the typed name, or the selected one; save under a new name."""
        name = self.typed
        if name in self.presets:
            self.take(name)
        elif self.marked and (self._moved or not name):
            self.take(self.marked)
        elif name:
            self._save(name)

    def _save(self, name: str) -> None:
        try:
            save_sampling_preset(self.home, name, self.params)
        except UserError as error:
            self.say(str(error))
            return
        self.dismiss(None)
        self.notify(f"Saved as {one_line(name)}", markup=False)
