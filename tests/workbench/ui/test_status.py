"""The line on top of every screen."""

from __future__ import annotations

from pathlib import Path

from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.ui.status import StatusLine


async def test_it_outlives_what_it_is_made_of(home: Path) -> None:
    """A terminal that closes while the app starts takes the parts away before the line is told to stop."""
    app = WorkbenchApp(home)
    async with app.run_test(size=(120, 24)) as pilot:
        app.training_line = "a-1 51% · 2m 05s left"
        await until(pilot, lambda: "2m 05s left" in shown(app.screen))
        line = app.screen.query_one(StatusLine)
        await line.remove_children()
        app.training_line = "a-1 52% · 2m 03s left"
        await pilot.resize_terminal(100, 24)
        await pilot.pause()
        assert app.is_running
