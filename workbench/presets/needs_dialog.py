"""The dialog that shows what a preset would need on many GPUs."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from llm.config import RunConfig
from llm.errors import UserError
from llm.scale import MACHINES, plan
from workbench.presets.needs import assumptions, table_rows
from workbench.text import clean
from workbench.ui.dialogs import Modal

GPUS = (1, 8, 512)
MACHINE = MACHINES["H100"]
COLUMN = 10  # cells


class NeedsDialog(Modal[None]):
    """A table with a column for each number of GPUs."""

    NAME = "On GPUs"
    GUIDE = (
        "What the preset would need on this many GPUs, by formula: memory, bytes moved, time, checkpoints. Nothing is "
        "measured. llm-workbench plan computes it for other kinds and numbers of GPUs."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close", id="dialog.cancel"),
    ]

    def __init__(self, name: str, config: RunConfig) -> None:
        super().__init__(classes="dialog")
        self.preset_name = name
        self.config = config

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box dialog-tall"):
            yield Static(clean(f"{self.preset_name} on {MACHINE.gpu} GPUs"), markup=False)
            with VerticalScroll(id="needs-scroll"):
                yield Static(needs_text(self.config), markup=False)

    def on_mount(self) -> None:
        self.query_one("#needs-scroll").focus()


def needs_text(config: RunConfig) -> Content:
    """The table, its assumptions, and a sentence about each number of GPUs that cannot divide the batch."""
    found, problems = [], []
    for gpus in GPUS:
        try:
            found.append(plan(config, gpus, MACHINE))
        except UserError as error:
            problems.append(str(error))
    if not found:
        return Content(clean("\n".join(problems)))
    rows = [("GPUs", *(str(each.gpus) for each in found)), *table_rows(found)]
    width = max(len(row[0]) for row in rows) + 2
    lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>{COLUMN}} " for cell in row[1:]) for row in rows]
    return Content(clean("\n".join([*lines, "", assumptions(MACHINE), *problems])))
