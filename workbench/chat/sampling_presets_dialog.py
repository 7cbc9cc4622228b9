"""Named sets of knobs: taking one, keeping the present one under a name, forgetting one."""

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
    """The presets, and a field for a name. Returns the knobs to use, or None."""

    NAME = "Knob presets"
    GUIDE = (
        "Enter takes the marked set of knobs; the seed stays as it is. A name that is not in the list keeps the "
        "present knobs under it. They are kept in knobs.toml of the home folder."
    )
    QUESTION = "Knob presets"
    PLACEHOLDER = "a name"
    HINT = "Enter takes one · a new name and Enter keeps the present knobs · ctrl+d forgets one · esc"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "forget", "Forget", id="knob-presets.forget", priority=True),
    ]

    def __init__(self, home: Path, params: DecodeConfig) -> None:
        super().__init__()
        self.home, self.params = home, params
        self.presets: dict[str, DecodeConfig] = {}
        self._moved = False  # the arrows say that one of the list is meant, not a new name

    def on_mount(self) -> None:
        self._read()

    def _read(self) -> None:
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

    def action_forget(self) -> None:
        """Take the marked set out of the file."""
        if self.marked:
            try:
                save_sampling_preset(self.home, self.marked, None)
            except UserError as error:
                self.say(str(error))
                return
            self._read()

    def take(self, identity: str) -> None:
        self.dismiss(with_seed_of(self.presets[identity], self.params))

    def submit(self) -> None:
        """A name in the list takes it; a new one keeps the present knobs, unless a line was moved to."""
        name = self.typed
        if name in self.presets:
            self.take(name)
        elif self.marked and (self._moved or not name):
            self.take(self.marked)
        elif name:
            self._keep(name)

    def _keep(self, name: str) -> None:
        try:
            save_sampling_preset(self.home, name, self.params)
        except UserError as error:
            self.say(str(error))
            return
        self.dismiss(None)
        self.notify(f"the knobs are kept as {one_line(name)}", markup=False)
