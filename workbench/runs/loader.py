"""Reads the summaries of all runs periodically, in a thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

from textual import work
from textual.message import Message
from textual.widgets import Static

from workbench.runs.catalog import RunCatalog
from workbench.runs.rows import PROGRESS_SECONDS
from workbench.runs.summaries import RunSummary
from workbench.ui.host import host_of

REFRESH_SECONDS = 1.5
MAX_PAUSE_SECONDS = 6.0
NO_RUNS = "No runs yet. Press 1, choose a preset, and press Enter to train it."


class RunLoader(Static):
    """Reads the runs. Without runs, it replaces the table (the screen has the class `empty`) and shows what to do, or
    the progress of reading."""

    @dataclass
    class Loaded(Message):
        """All runs have been read."""

        summaries: list[RunSummary]

    def __init__(self, *, id: str) -> None:
        super().__init__(NO_RUNS, id=id)
        self.catalog: RunCatalog | None = None
        self.has_runs = False
        self._is_reading = False
        self._next_read = 0.0

    def on_mount(self) -> None:
        self.catalog = RunCatalog(host_of(self).home)
        self.set_interval(REFRESH_SECONDS, self._read_if_due)
        self.read()

    def _read_if_due(self) -> None:
        """Read, but spend at most a tenth of the time on it; after a long first read, pause only briefly."""
        if time.monotonic() >= self._next_read:
            self.read()

    def read(self) -> None:
        """Read the runs again, in a thread; nothing while another screen is in front."""
        if self.screen.is_current and not self._is_reading and self.catalog is not None:
            self._is_reading = True
            self._read(self.catalog)

    @work(thread=True, group="runs-refresh")
    def _read(self, catalog: RunCatalog) -> None:
        began = shown = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                self.app.call_from_thread(self._show_progress, done, total)

        try:
            summaries = catalog.refresh(progress)
        finally:
            self._next_read = time.monotonic() + min(9 * (time.monotonic() - began), MAX_PAUSE_SECONDS)
            self._is_reading = False
        self.post_message(self.Loaded(summaries))

    def _show_progress(self, done: int, total: int) -> None:
        if not self.has_runs:
            self.screen.add_class("empty")
            self.update(f"Reading {total:,} runs: {done / total:.0%}")

    def on_run_loader_loaded(self, message: Loaded) -> None:
        self.has_runs = bool(message.summaries)
        self.screen.set_class(not self.has_runs, "empty")
        self.update(NO_RUNS)
