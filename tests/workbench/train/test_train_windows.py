"""The Train screen under windows: it goes on, and what is asked in them reaches the run that was meant."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from llm.config import RunConfig
from llm.events import Warned
from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.scripted import prepared_trainer, scripted_run, write_events
from tests.workbench.waiting import shown, until, was_notified
from workbench.app import WorkbenchApp
from workbench.charts.chart import Chart
from workbench.train import run_view
from workbench.train.compare_dialog import ChooseRuns
from workbench.train.screen import TrainScreen
from workbench.train.settings_dialog import LiveSettingsDialog
from workbench.ui.dialogs import Ask, AskText, Help


@asynccontextmanager
async def running_run(
    home: Path, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[Pilot[int], WorkbenchApp, TrainScreen]]:
    """The screen on a run that trains in this program and has taken 30 steps."""
    trainer = prepared_trainer(30)
    app = app_with(home, trainer)
    async with app.run_test(size=size, notifications=True) as pilot:
        app.training.start(RunConfig(), "quick")
        app.open_train("quick-1")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "running")
        assert isinstance(app.screen, TrainScreen)
        yield pilot, app, app.screen
        app.training.shutdown()


async def test_it_continues_visibly_under_one_window_and_under_two(home: Path) -> None:
    async with running_run(home) as (pilot, app, _):
        log = Run.open(home, "quick-1").log()
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, LiveSettingsDialog))
        write_events(log, 31, 60)
        await until(pilot, lambda: "step 60 of 600" in shown(app.screen) and "quick-1 10%" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        write_events(log, 61, 90)
        await until(pilot, lambda: "step 90 of 600" in shown(app.screen) and "quick-1 15%" in shown(app.screen))
        log.close()


async def test_what_happens_under_a_window_is_reported(home: Path) -> None:
    async with running_run(home) as (pilot, app, _):
        await until(pilot, lambda: "quick-1 5%" in app.training_line)  # from now on what happens is news
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        log = Run.open(home, "quick-1").log()
        log.append(Warned(step=31, message="the disk is nearly full"))
        log.close()
        await until(pilot, lambda: was_notified(app, "the disk is nearly full"))


async def test_a_setting_changed_after_the_end_is_refused_and_nothing_stays_pending(home: Path) -> None:
    async with running_run(home) as (pilot, app, screen):
        await pilot.press("t", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.training.shutdown()
        await until(pilot, lambda: app.training.active is None)
        app.screen.query_one(Input).value = "0.5"
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "quick-1 has ended"))
        assert not screen.view.pending and "train.lr_multiplier" not in (
            screen.curves.settings if screen.curves else {}
        )
        commands = home / "runs" / "quick-1" / "commands.jsonl"
        assert not commands.exists() or "lr_multiplier" not in commands.read_text()


async def test_what_was_asked_and_never_answered_goes_with_the_end(home: Path) -> None:
    run = scripted_run(home, "other-1", 50)
    app = app_with(home, watch="other-1")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        with run.lock():
            await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "running")
            await pilot.press("s")
            await until(pilot, lambda: "pending: save" in shown(app.screen))
        await until(pilot, lambda: "Resume" in shown(app.screen) and "pending:" not in shown(app.screen))
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        screen.view.pending["late"] = "save"  # as one that was asked just before the end was noticed
        screen.view.draw_again()
        await until(pilot, lambda: "pending: save" not in shown(screen))


async def test_what_a_window_asks_concerns_the_run_it_was_opened_on(home: Path) -> None:
    async with running_run(home) as (pilot, app, screen):
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.training.shutdown()
        await until(pilot, lambda: app.training.active is None)
        app.training.start(RunConfig(), "next")
        screen.open_run("next-1")
        await until(pilot, lambda: screen.state == "running" and screen.subject == "next-1")
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "quick-1 has ended"))
        assert app.training.active == "next-1" and not screen.view.pending


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_all_sampling_parameters_are_visible_with_help_and_keys(home: Path, size: tuple[int, int]) -> None:
    async with running_run(home, size) as (pilot, app, _):
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, LiveSettingsDialog))
        dialog = app.screen
        assert isinstance(dialog, LiveSettingsDialog)
        await until(pilot, lambda: all(path in shown(dialog) for path in dialog.fields))
        assert not dialog.query_one(OptionList).show_vertical_scrollbar
        await until(pilot, lambda: "Cancel" in shown(dialog).splitlines()[-1])
        assert "Pause" not in shown(dialog).splitlines()[-1]
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help) and "while the run trains" in shown(app.screen))


async def test_choosing_runs_has_help_and_keys(home: Path) -> None:
    for name in ("other-1", "old-1"):
        scripted_run(home, name, 50, end="stopped")
    app = app_with(home, watch="old-1")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "ended")
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, ChooseRuns))
        await until(pilot, lambda: "␣ Select" in shown(app.screen).splitlines()[-1])
        assert "Resume" not in shown(app.screen).splitlines()[-1]
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Space selects a run" in shown(app.screen))


async def test_the_screen_continues_while_other_runs_are_looked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("other-1", "old-1"):
        scripted_run(home, name, 50, end="stopped")
    go_on, has_curves = threading.Event(), run_view.has_curves
    monkeypatch.setattr(run_view, "has_curves", lambda run: go_on.wait(30) and has_curves(run))
    app = app_with(home, watch="old-1")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "ended")
        await pilot.press("o", "y")
        await until(pilot, lambda: app.screen.query_one("#loss-chart", Chart).log_axis)
        go_on.set()
        await until(pilot, lambda: isinstance(app.screen, ChooseRuns) and "other-1" in shown(app.screen))
