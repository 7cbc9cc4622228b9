"""What the snapshot tests share: a machine and a clock that are the same everywhere, and waiting for a still screen.

A picture is kept where a layout differs in kind; `look` reads the text of the screen everywhere else.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

import workbench.runs.screen  # noqa: F401 - loaded before the home is made the same everywhere
from llm.events import Event, Finished
from llm.run import EventLog
from tests.workbench.scripted import scripted_run
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.charts.export import strips_of
from workbench.data import prepared_data
from workbench.presets import estimate
from workbench.train.machine import Machine, Measurement

NOW = 1_800_000_000.0
SMALL, LARGE, HUGE = (80, 24), (160, 50), (200, 60)

STILL_LOOKS, LOOK_SECONDS = 3, 0.05
WAITING_FOR_A_PERSON = ("default", "hand over", "leaving")
"""Groups of workers that run as long as the dialog they have opened."""

Step = Callable[[Pilot[int]], Awaitable[None]]
Look = Callable[..., None]
"""look(app, size, step, *texts, picture, also): play `step` on the app at a size and wait until all `texts` are shown,
then the same at the size `also`, and back again. With a picture, which is the default at 80×24 and 200×60, what is
shown in the end is also compared with the one that is kept."""

MUST_BE_STILL: ContextVar[bool] = ContextVar("MUST_BE_STILL", default=True)
"""Whether `settle` waits until nothing moves, as a picture needs it, or only until what was asked for is done."""


@pytest.fixture
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Look:
    # Else the charts of a training would be drawn once a second, which is longer than `settle` waits for a change.
    monkeypatch.setattr("workbench.train.run_view.DRAW_SECONDS", 0.0)
    monkeypatch.setattr("workbench.train.run_view.DRAW_SHARE", 1.0)

    def see(
        app: WorkbenchApp,
        size: tuple[int, int],
        step: Step,
        *texts: str,
        picture: bool | None = None,
        also: tuple[int, int] | None = None,
    ) -> None:
        pictured = size in (SMALL, HUGE) if picture is None else picture

        async def play(pilot: Pilot[int]) -> None:
            MUST_BE_STILL.set(pictured)
            await step(pilot)
            for shape in (size, also, size) if also else (size,):
                if app.size != shape:
                    await pilot.resize_terminal(*shape)
                    await settle(pilot)
                await until(pilot, lambda: all(text in shown(app.screen) for text in texts))

        if pictured:
            assert request.getfixturevalue("snap_compare")(app, terminal_size=size, run_before=play)
        else:
            asyncio.run(read(app, size, play))

    return see


async def read(app: WorkbenchApp, size: tuple[int, int], play: Step) -> None:
    async with app.run_test(size=size) as pilot:
        await play(pilot)


@pytest.fixture
def still_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one name everywhere, on a machine of one size where it is always the same time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(App, "NOTIFICATION_TIMEOUT", 3600.0)  # what is told stays, however slow the machine
    append = EventLog.append
    monkeypatch.setattr(EventLog, "append", lambda log, event: append(log, stamped(event)))
    monkeypatch.setattr(estimate, "available_bytes", lambda: 16 * 10**9)
    monkeypatch.setattr(Machine, "measure", lambda machine: Measurement(42.0, 3 * 10**9, 16 * 10**9))
    monkeypatch.setattr(prepared_data, "PREVIEW_TOKENS", 120)
    for module in [module for name, module in sys.modules.items() if name.startswith("workbench.")]:
        if hasattr(module, "directory_size"):
            monkeypatch.setattr(module, "directory_size", lambda path: 12_345_678)
    folder = Path("home")
    folder.mkdir()
    return folder


def stamped(event: Event) -> Event:
    """The event as if it had happened an hour ago."""
    return replace(event, time=NOW - 3600)


def going(mode: str, *texts: str) -> Step:
    """Go to a screen and wait until it shows all of the texts."""

    async def go(pilot: Pilot[int]) -> None:
        await pilot.app.action_show(mode)  # type: ignore[attr-defined]
        await until(pilot, lambda: all(text in shown(pilot.app.screen) for text in texts))
        await settle(pilot)

    return go


async def settle(pilot: Pilot[int]) -> None:
    """Until no thread looks anything up and every screen stays as it is, in text and in style, those behind a window
    too; cursors stop blinking. Fails if that never comes."""
    app = pilot.app
    if not MUST_BE_STILL.get():
        await pilot.pause()
        return
    for field in app.screen.query("Input, TextArea").results(Input | TextArea):  # type: ignore[call-overload]
        field.cursor_blink = False
    before: object = None
    still = 0
    for _ in range(400):
        await pilot.pause(LOOK_SECONDS)
        now = [strips_of(screen) for screen in app.screen_stack]
        busy = any(worker.is_running and worker.group not in WAITING_FOR_A_PERSON for worker in app.workers)
        still = 0 if busy or now != before or "looking…" in shown(app.screen) else still + 1
        if still == STILL_LOOKS:
            return
        before = now
    raise AssertionError("the screen never came to rest:\n" + shown(app.screen))


def old_runs(home: Path) -> None:
    """A run that was stopped, one that failed, and one that nobody ended."""
    scripted_run(home, "first-1", 330, end="stopped")
    scripted_run(home, "second-1", 40)
    run = scripted_run(home, "third-1", 20)
    log = run.log()
    log.append(Finished(step=20, status="failed", reason="the loss was not a number five times in a row"))
    log.close()
