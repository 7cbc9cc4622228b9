"""The line with the load of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from textual import work
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from workbench.train.machine import Machine, Measurement, describe_machine

EVERY_SECONDS = 2.0


class MachineLine(Static):
    """CPU, memory and GPUs, measured in a thread every two seconds while the line is visible."""

    DEFAULT_CSS = """
    MachineLine { height: 1; padding: 0 1; color: $foreground-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    @dataclass
    class Measured(Message):
        """The machine was measured."""

        measurement: Measurement

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.machine = Machine()
        self._is_measuring = False

    def on_mount(self) -> None:
        self.set_interval(EVERY_SECONDS, self.measure)
        self.call_after_refresh(self.measure)

    def measure(self) -> None:
        """Measure now, unless the line is hidden or a measurement is running."""
        if self.display and self.size.width and self.screen.is_current and not self._is_measuring:
            self._is_measuring = True
            self._measure()

    @work(thread=True, group="measure the machine")
    def _measure(self) -> None:
        self.post_message(self.Measured(self.machine.measure()))

    def on_machine_line_measured(self, message: Measured) -> None:
        self._is_measuring = False
        self.update(Content(describe_machine(message.measurement)), layout=False)
