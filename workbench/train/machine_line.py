"""A line that says how busy the machine is, where there is room for it."""

from __future__ import annotations

from dataclasses import dataclass

from textual import work
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from workbench.train.machine import Machine, Reading, told

EVERY_SECONDS = 2.0


class MachineLine(Static):
    """CPU, memory and GPUs, looked at every two seconds while the line is on the screen, in a thread."""

    DEFAULT_CSS = """
    MachineLine { height: 1; padding: 0 1; color: $foreground-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    @dataclass
    class Looked(Message):
        """A look at the machine is done."""

        reading: Reading

    def __init__(self, machine: Machine | None = None, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.machine = machine or Machine()
        self._looking = False

    def on_mount(self) -> None:
        self.set_interval(EVERY_SECONDS, self.look)
        self.call_after_refresh(self.look)

    def look(self) -> None:
        """Look now, unless nobody could see it or the look before is not over."""
        if self.display and self.size.width and self.screen.is_current and not self._looking:
            self._looking = True
            self._look()

    @work(thread=True, group="look at the machine")
    def _look(self) -> None:
        self.post_message(self.Looked(self.machine.look()))

    def on_machine_line_looked(self, message: Looked) -> None:
        self._looking = False
        self.update(Content(told(message.reading)), layout=False)
