"""Watching a run learn."""

from __future__ import annotations

from workbench.screens.base import WorkbenchScreen


class TrainScreen(WorkbenchScreen):
    """One run: its curves, its samples, its log, and the keys that steer it."""

    def open_run(self, name: str) -> None:
        """Show the run called `name`."""
