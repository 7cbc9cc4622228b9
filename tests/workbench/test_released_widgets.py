"""Windows that are closed and lists that are built anew are released: what is held adds up in a long session."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from textual.pilot import Pilot
from textual.widget import Widget

from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.waiting import until
from workbench.app import WorkbenchApp

ROUNDS = 3
WINDOWS = {
    "1": ("e", "f", "ctrl+p"),
    "2": ("question_mark",),
    "3": ("f", "n", "d", "w", "x", "D"),
    "5": ("a", "enter"),
}
"""By the key of a screen: keys that each open a window there."""


def removed_widgets() -> Counter[str]:
    """How many widgets of each class are in memory though they are on no screen."""
    gc.collect()
    widgets = [each for each in gc.get_objects() if issubclass(type(each), Widget)]
    return Counter(type(each).__name__ for each in widgets if not each.is_attached)


async def open_and_close(app: WorkbenchApp, pilot: Pilot[int], place: str, keys: Sequence[str]) -> None:
    """Show a screen, and open and close its windows at a wide and at a narrow size."""
    app.simulate_key(place)
    await until(pilot, lambda: app.current_mode == list(app.MODES)[int(place) - 1])
    await pilot.resize_terminal(*((60, 20) if app.size.width > 100 else (120, 40)))
    for key in keys:
        app.simulate_key(key)
        await until(pilot, lambda: len(app.screen_stack) > 1)
        app.screen.dismiss()
        await until(pilot, lambda: len(app.screen_stack) == 1)
    app.notify("a toast", timeout=0.01)


async def test_closed_windows_are_released(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.3)
        for place, keys in WINDOWS.items():
            await open_and_close(app, pilot, place, keys)
        counts = [removed_widgets()]
        for _ in range(ROUNDS):
            for place, keys in WINDOWS.items():
                await open_and_close(app, pilot, place, keys)
            counts.append(removed_widgets())
    leaks = [name for name in counts[-1] if all(later[name] > earlier[name] for earlier, later in pairwise(counts))]
    assert not leaks, "these grow with every round; the last removed keys of a footer only come and go"
