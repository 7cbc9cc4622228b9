"""Faults of Textual that need no screen of the workbench to be shown."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import pytest
import pytest_asyncio
from rich.style import Style
from textual.app import App, ComposeResult
from textual.drivers._writer_thread import WriterThread
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Click

from workbench.app import WorkbenchApp
from workbench.ui.lists import SafeList
from workbench.ui.palette import Palette
from workbench.ui.pasting import ForgivingFile, TerminalDriver


class ListApp(App[None]):
    def compose(self) -> ComposeResult:
        yield SafeList("one", "two")


class LostTerminal(StringIO):
    def write(self, text: str) -> int:
        raise OSError("the terminal is gone")


@pytest_asyncio.fixture
async def driver() -> AsyncIterator[TerminalDriver]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
    yield TerminalDriver(ListApp())
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_palette_may_close_before_it_is_mounted(home: Path) -> None:
    app = WorkbenchApp(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.1)
        app.push_screen(Palette())
        app.pop_screen()
        await pilot.pause(0.1)
        assert len(app.screen_stack) == 1


async def test_a_click_where_no_palette_is_any_more_is_ignored(home: Path) -> None:
    """It was made before the terminal became smaller."""
    app = WorkbenchApp(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.1)
        palette = Palette()
        await app.push_screen(palette)
        palette.post_message(Click(palette, 90, 8, 0, 0, 1, False, False, False, screen_x=90, screen_y=8))
        await pilot.pause(0.1)
        assert app.screen is palette


async def test_an_option_that_was_removed_can_be_clicked() -> None:
    app = ListApp()
    async with app.run_test() as pilot:
        options = app.query_one(SafeList)
        options.remove_option_at_index(1)
        options.post_message(Click(options, 0, 1, 0, 0, 1, False, False, False, style=Style(meta={"option": 1})))
        await pilot.pause()
        assert options.highlighted in (None, 0)


def test_output_to_a_lost_terminal_is_dropped() -> None:
    """The queue of the writer holds few texts: where its thread has ended, the app waits for it forever."""
    writer = WriterThread(ForgivingFile(LostTerminal()))  # type: ignore[arg-type]
    writer.start()
    texts = threading.Thread(target=lambda: [writer.write("text") for _ in range(1000)], daemon=True)
    texts.start()
    texts.join(timeout=10)
    assert not texts.is_alive() and writer.is_alive()
    writer.stop()


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_lost_terminal_is_not_set_up_again(
    driver: TerminalDriver, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends SIGCONT with SIGHUP."""
    started: list[str] = []
    monkeypatch.setattr(LinuxDriver, "start_application_mode", lambda _: started.append("started"))
    driver.is_lost = lambda: is_lost
    os.kill(os.getpid(), signal.SIGCONT)
    assert bool(started) is not is_lost
