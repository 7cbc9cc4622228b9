"""Which run the Train screen shows: the one in training here, unless the person chose another one since it began."""

from __future__ import annotations

import shutil
from pathlib import Path

from llm.config import RunConfig
from tests.workbench.opening import app_with
from tests.workbench.scripted import prepared_trainer, scripted_run
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.train.screen import TrainScreen


def following_app(home: Path, watch: str | None = None) -> WorkbenchApp:
    return app_with(home, prepared_trainer(30), watch)


def shows(app: WorkbenchApp, name: str) -> bool:
    return isinstance(app.screen, TrainScreen) and app.screen.subject == name


async def test_a_training_that_began_since_takes_the_place_of_a_run_that_has_ended(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="finished")
    app = following_app(home, watch="old-1")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: shows(app, "old-1"))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "presets")
        app.training.start(RunConfig(), "quick")
        await pilot.press("2")
        await until(pilot, lambda: shows(app, "quick-1"))
        app.training.shutdown()


async def test_the_same_old_run_asked_for_again_stays_too(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="finished")
    app = following_app(home, watch="old-1")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: shows(app, "old-1"))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "presets")
        app.training.start(RunConfig(), "quick")
        app.open_train("old-1")
        await until(pilot, lambda: shows(app, "old-1") and "b Active run" in shown(app.screen))
        app.training.shutdown()


async def test_an_old_run_that_was_opened_during_a_training_stays(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="finished")
    app = following_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        app.training.start(RunConfig(), "quick")
        app.open_train("old-1")
        await until(pilot, lambda: shows(app, "old-1"))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "presets")
        await pilot.press("2")
        await until(pilot, lambda: shows(app, "old-1") and "b Active run" in shown(app.screen))
        await pilot.press("question_mark")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: shows(app, "old-1"))
        await pilot.press("b")
        await until(pilot, lambda: shows(app, "quick-1") and "b Active run" not in shown(app.screen))
        app.training.shutdown()


async def test_a_run_that_is_gone_gives_way(home: Path) -> None:
    old = scripted_run(home, "old-1", 60, end="finished")
    app = following_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        app.training.start(RunConfig(), "quick")
        app.open_train("old-1")
        await until(pilot, lambda: shows(app, "old-1"))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "presets")
        shutil.rmtree(old.path)
        await pilot.press("2")
        await until(pilot, lambda: shows(app, "quick-1"))
        app.training.shutdown()


async def test_a_window_that_closes_changes_nothing(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="finished")
    app = following_app(home, watch="old-1")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: shows(app, "old-1") and "r Resume" in shown(app.screen))
        await pilot.press("question_mark")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        app.training.start(RunConfig(), "quick")
        await pilot.press("escape")
        await until(pilot, lambda: shows(app, "old-1") and "b Active run" in shown(app.screen))
        app.training.shutdown()
