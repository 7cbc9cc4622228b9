"""The list of presets on the Presets screen."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets.option_list import Option

from llm.config import Preset
from workbench.text import clean
from workbench.ui.lists import DETAIL, ChoiceList, with_headings


class PresetList(ChoiceList):
    """The presets by group; Enter trains one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Train", id="presets.start", key_display="⏎"),
    ]

    def show_presets(self, presets: Sequence[Preset], edited: Container[str], selected: str = "") -> None:
        """List `presets`, with * after the names in `edited`. Select `selected`, or the first preset without a problem
        if it is ""."""
        self.set_options(
            with_headings((each.group, Option(entry(each, each.name in edited), id=each.name)) for each in presets)
        )
        name = selected or next((each.name for each in presets if not each.problem), "")
        if name:
            self.highlighted = self.get_option_index(name)


def entry(preset: Preset, is_edited: bool) -> Content:
    """The two lines of a preset: its name, and its purpose or problem."""
    name = (clean(f"{preset.name} *" if is_edited else preset.name), "bold")
    if preset.problem:
        return Content.assemble(name, "\n", ("Cannot be read", "$text-error"))
    return Content.assemble(name, "\n", (clean(preset.purpose), DETAIL))
