"""What every screen looks like, in its main states: compared with pictures kept beside this file.

After a wanted change: `pytest tests/workbench/test_pictures.py --snapshot-update`, and look at what has changed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from llm.config import RunConfig
from llm.data.prepare import prepare
from llm.events import Event, Finished
from llm.run import EventLog
from tests.workbench.scripted import ScriptedTrainer, scripted_run
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.screens import runs  # noqa: F401 - loaded before the home is made the same everywhere
from workbench.screens.data import DataScreen
from workbench.screens.train import TrainScreen
from workbench.services import corpora, estimate
from workbench.services.corpora import add_corpus
from workbench.services.system import Machine, Reading
from workbench.services.training import TrainingService

NOW = 1_800_000_000.0
SMALL, LARGE = (80, 24), (160, 50)

Compare = Callable[..., bool]
Step = Callable[[Pilot[int]], Awaitable[None]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one name everywhere, on a machine of one size where it is always the same time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    append = EventLog.append
    monkeypatch.setattr(EventLog, "append", lambda log, event: append(log, stamped(event)))
    monkeypatch.setattr(estimate, "available_bytes", lambda: 16 * 10**9)
    monkeypatch.setattr(Machine, "look", lambda machine: Reading(42.0, 3 * 10**9, 16 * 10**9))
    monkeypatch.setattr(corpora, "PREVIEW_TOKENS", 120)
    for module in [module for name, module in sys.modules.items() if name.startswith("workbench.")]:
        if hasattr(module, "directory_size"):
            monkeypatch.setattr(module, "directory_size", lambda path: 12_345_678)
    folder = Path("home")
    folder.mkdir()
    return folder


STILL_LOOKS = 5


def stamped(event: Event) -> Event:
    """The event as if it had happened an hour ago."""
    return replace(event, time=NOW - 3600)


def app_with(home: Path, trainer: ScriptedTrainer | None = None) -> WorkbenchApp:
    return WorkbenchApp(home, training=TrainingService(home, trainer=trainer or ScriptedTrainer()))


def going(mode: str, *texts: str) -> Step:
    """Go to a screen and wait until it shows all of the texts."""

    async def go(pilot: Pilot[int]) -> None:
        await pilot.app.action_show(mode)  # type: ignore[attr-defined]
        await until(pilot, lambda: all(text in shown(pilot.app.screen) for text in texts))
        await settle(pilot)

    return go


async def settle(pilot: Pilot[int]) -> None:
    """Until the screen stays as it is, and nothing is being looked up any more; cursors stop blinking."""
    for field in pilot.app.screen.query("Input, TextArea").results(Input | TextArea):  # type: ignore[call-overload]
        field.cursor_blink = False
    before, still = "", 0
    for _ in range(400):
        await pilot.pause(0.05)
        now = shown(pilot.app.screen)
        still = still + 1 if now == before and "looking…" not in now else 0
        if still == STILL_LOOKS:
            return
        before = now


def old_runs(home: Path) -> None:
    """A run that was stopped, one that failed, and one that nobody ended."""
    scripted_run(home, "first-1", 330, end="stopped")
    scripted_run(home, "second-1", 40)
    run = scripted_run(home, "third-1", 20)
    log = run.log()
    log.append(Finished(step=20, status="failed", reason="the loss was not a number five times in a row"))
    log.close()


@pytest.mark.parametrize("mode", ["train", "runs", "chat"])
def test_nothing_there_yet(mode: str, home: Path, snap_compare: Compare) -> None:
    assert snap_compare(app_with(home), terminal_size=SMALL, run_before=going(mode, "no training"))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
def test_presets(size: tuple[int, int], home: Path, snap_compare: Compare) -> None:
    assert snap_compare(app_with(home), terminal_size=size, run_before=going("presets", "quickstart", "parameters"))


def test_a_preset_that_cannot_be_read(home: Path, snap_compare: Compare) -> None:
    (home / "presets").mkdir()
    (home / "presets" / "odd.toml").write_text("[train]\nstepz = 3\n", encoding="utf-8")

    async def last(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: "quickstart" in shown(pilot.app.screen))
        await pilot.press("G")
        await until(pilot, lambda: "there is no such field" in shown(pilot.app.screen))
        await settle(pilot)

    assert snap_compare(app_with(home), terminal_size=SMALL, run_before=last)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
def test_a_run_in_training(size: tuple[int, int], home: Path, snap_compare: Compare) -> None:
    trainer = ScriptedTrainer(steps=250)
    trainer.prepared.set()
    app = app_with(home, trainer)

    async def train(pilot: Pilot[int]) -> None:
        app.training.start(RunConfig(), "quick")
        app.open_train("quick-1")
        screen: Any = None
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        screen = app.screen
        wide = size == LARGE
        await until(pilot, lambda: screen.state == "running" and "step 250" in shown(screen))
        await until(pilot, lambda: not wide or "CPU 42%" in shown(screen))
        await until(pilot, lambda: "quick-1 42%" in app.training_line)
        await settle(pilot)

    assert snap_compare(app, terminal_size=size, run_before=train)
    app.training.shutdown()


def test_a_run_that_failed(home: Path, snap_compare: Compare) -> None:
    old_runs(home)
    app = app_with(home)

    async def train(pilot: Pilot[int]) -> None:
        app.open_train("third-1")
        await until(pilot, lambda: "third-1  failed" in shown(app.screen))
        await until(pilot, lambda: "r Resume" in shown(app.screen))
        await settle(pilot)

    assert snap_compare(app, terminal_size=SMALL, run_before=train)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
def test_runs(size: tuple[int, int], home: Path, snap_compare: Compare) -> None:
    old_runs(home)
    step = going("runs", "first-1", "second-1", "third-1")
    assert snap_compare(app_with(home), terminal_size=size, run_before=step)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
def test_data(size: tuple[int, int], home: Path, snap_compare: Compare) -> None:
    text = Path("mine.txt")
    text.write_text("".join(f"Ada saw the moon on day {day}, 日本 too.\n" for day in range(400)), encoding="utf-8")
    config = RunConfig()
    config = replace(
        config, tokenizer=replace(config.tokenizer, kind="byte"), data=replace(config.data, corpus="mine.txt")
    )
    for _ in prepare(config, home):
        pass
    app = app_with(home)

    async def look(pilot: Pilot[int]) -> None:
        await app.action_show("data")
        screen: Any = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: any(key.startswith("prepared") for key in screen.entries))
        key = next(key for key in screen.entries if key.startswith("prepared"))
        screen.listing.highlighted = screen.listing.get_option_index(key)
        await until(pilot, lambda: "Most frequent" in shown(screen))
        screen.query_one("#try-text", TextArea).text = "Ada says 你好"
        await until(pilot, lambda: "Ada·says" in shown(screen))
        await settle(pilot)

    assert snap_compare(app, terminal_size=size, run_before=look)


def test_data_that_is_gone(home: Path, snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.txt").write_text("some text\n", encoding="utf-8")
    monkeypatch.setattr(Path, "absolute", lambda path: path)  # the list keeps whole paths, which differ here each time
    add_corpus(home, "mine.txt")
    Path("mine.txt").unlink()
    app = app_with(home)

    async def look(pilot: Pilot[int]) -> None:
        await app.action_show("data")
        screen: Any = app.screen
        await until(pilot, lambda: "added mine.txt" in screen.entries)
        screen.listing.highlighted = screen.listing.get_option_index("added mine.txt")
        await until(pilot, lambda: "There is no corpus" in shown(screen))
        await settle(pilot)

    assert snap_compare(app, terminal_size=SMALL, run_before=look)
