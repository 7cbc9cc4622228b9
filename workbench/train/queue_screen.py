"""The queue: runs that wait to be trained."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from llm.errors import UserError
from llm.run import Run
from workbench.text import one_line
from workbench.ui.list_screen import ListScreen
from workbench.ui.notices import attempt


class QueueScreen(ListScreen):
    """The runs in the queue, in order."""

    NAME = "Queue"
    GUIDE = (
        "The next run starts when no other run of this home directory is training and the workbench is open. K and J "
        "move a run up and down, d removes it from the queue (the run is not deleted), b starts the first one now."
    )
    HEADINGS = ("", "run", "purpose", "steps")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K,shift+up", "shift(-1)", "Move up", id="queue.earlier", key_display="K"),
        Binding("J,shift+down", "shift(1)", "Move down", id="queue.later", key_display="J"),
        Binding("d,delete", "remove", "Remove", id="queue.remove", key_display="d"),
        Binding("b", "start", "Start now", id="queue.begin"),
    ]

    def reload(self) -> None:
        names = self.workbench.queue.names()
        if not names:
            note = "The queue is empty. Press Q on a preset or on a run to add it."
        elif other := self.workbench.waits_for_other:
            note = f"The next run starts when {other} ends, which trains in another process."
        else:
            note = "The next run starts when the current training ends."
        self.show(note, [(name, self._cells(place, name)) for place, name in enumerate(names, 1)])

    def _cells(self, place: int, name: str) -> list[Text]:
        run = Run(self.workbench.home / "runs" / name)
        try:
            config, parent = run.config(), str(run.info().get("parent", ""))
        except UserError as error:
            return [Text(str(place)), Text(one_line(name)), Text(one_line(str(error))), Text("")]
        about = f"fork of {parent}" if parent else config.purpose
        length = f"{config.train.minutes:g} min" if config.train.minutes else f"{config.train.steps:,}"
        return [Text(str(place)), Text(one_line(name)), Text(one_line(about)), Text(length)]

    def action_shift(self, by: int) -> None:
        name = self.table.current
        attempt(self.app, lambda: self.workbench.queue.move(name, by))
        self.reload()
        self.table.select_key(name)

    def action_remove(self) -> None:
        """Remove the run from the queue; the run itself stays."""
        attempt(self.app, lambda: self.workbench.queue.remove(self.table.current))
        self.reload()

    def action_start(self) -> None:
        """Start the first run now, in a background process if another run trains here."""
        self.workbench.begin_next()
        self.reload()
