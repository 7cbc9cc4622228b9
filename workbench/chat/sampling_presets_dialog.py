"""The dialog for sampling presets: use, save or delete one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.sampling_presets import load_sampling_presets, save_sampling_preset, summary, with_seed_of
from workbench.text import one_line
from workbench.ui.chooser import Chooser, Entry


class SamplingPresetsDialog(Chooser[DecodeConfig]):
    """The presets, and a field for a name. Returns the parameters to use, or None."""

    NAME = "Sampling presets"
    GUIDE = (
        "Enter uses the selected preset; the seed does not change. Type a new name to save the current parameters. "
        "Presets are stored in knobs.toml in the home directory."
    )
    QUESTION = "Sampling presets"
    EMPTY = "No presets yet: type a name and press Enter to save the current parameters"
    PLACEHOLDER = "Filter, or a new name"
    HINT = "↑ ↓ select · Enter use · new name + Enter save current · ctrl+d delete · esc cancel"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "delete", "Delete", id="knob-presets.forget", priority=True),
    ]

    def __init__(self, home: Path, params: DecodeConfig) -> None:
        super().__init__()
        self.home, self.params = home, params
        self._moved = False  # the list was used: Enter means the selected preset and not a new name

    def load(self) -> list[Entry[DecodeConfig]]:
        presets = load_sampling_presets(self.home)
        return [Entry(with_seed_of(one, self.params), name, summary(one), name) for name, one in presets.items()]

    def reload(self) -> None:
        """Load without a thread: Enter must know whether a name exists."""
        self.show_entries(*self.try_load())

    def filter(self) -> None:
        self._moved = False
        super().filter()

    def action_move(self, by: int) -> None:
        self._moved = True
        super().action_move(by)

    def action_delete(self) -> None:
        """Delete the selected preset."""
        if self.marked is not None and self._write(self.marked.label, None):
            self.reload()

    def submit(self) -> None:
        """Use the preset of the typed name, or the selected one; save under a new name."""
        name = self.typed
        same = next((entry for entry in self.entries or () if entry.label == name), None)
        chosen = same or (self.marked if self._moved or not name else None)
        if chosen is not None:
            self.choose(chosen)
        elif name and self._write(name, self.params):
            self.dismiss(None)
            self.notify(f"Saved as {one_line(name)}", markup=False)

    def _write(self, name: str, params: DecodeConfig | None) -> bool:
        """Save or delete a preset; whether it succeeded."""
        try:
            save_sampling_preset(self.home, name, params)
        except UserError as error:
            self.say(str(error))
            return False
        return True
