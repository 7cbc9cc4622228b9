"""What the Train screen looks like in the states of a run, compared with pictures kept beside this file.

A run in training, one that failed, and no run at all are in `test_pictures`. After a wanted change:
`pytest tests/workbench/test_pictures_train.py --snapshot-update`, and look at what has changed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from llm.config import RunConfig
from llm.events import Finished, RolledBack, Skipped, Warned
from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.pictures_for_tests import LARGE, SMALL, Look, settle
from tests.workbench.scripted import ScriptedTrainer, scripted_run, started_event, step_event
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.train.screen import TrainScreen

SIZE = pytest.mark.parametrize("size", [SMALL], ids=["80x24"])


def showing(app: WorkbenchApp, run: str, *texts: str, keys: str = "") -> Callable[[Pilot[int]], Awaitable[None]]:
    """Open a run, press `keys` (parted by spaces), and wait until the screen shows all of the texts."""

    async def go(pilot: Pilot[int]) -> None:
        app.open_train(run)
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state != "none")
        await until(pilot, lambda: app.size.width < 120 or "CPU 42%" in shown(app.screen))
        await pilot.press(*keys.split())
        await until(pilot, lambda: all(text in shown(app.screen) for text in texts))
        await settle(pilot)

    return go


@SIZE
def test_preparing(size: tuple[int, int], still_home: Path, look: Look) -> None:
    trainer = ScriptedTrainer()
    app = app_with(still_home, trainer)

    async def prepare(pilot: Pilot[int]) -> None:
        app.training.start(RunConfig(), "quick")
        await showing(app, "quick-1", "preparing", "Tokenizing 40%", "x Stop")(pilot)
        await until(pilot, lambda: "quick-1: Tokenizing" in app.training_line)
        await settle(pilot)

    look(app, size, prepare, "preparing", "Tokenizing 40%", also=LARGE)
    trainer.prepared.set()
    app.training.shutdown()


@SIZE
def test_paused_with_something_asked(size: tuple[int, int], still_home: Path, look: Look) -> None:
    trainer = ScriptedTrainer()
    trainer.prepared.set()
    app = app_with(still_home, trainer)

    async def pause(pilot: Pilot[int]) -> None:
        app.training.start(RunConfig(), "quick")
        await showing(app, "quick-1", "running", "step 250")(pilot)
        await pilot.press("p")
        await until(pilot, lambda: "paused" in app.training_line and "p Continue" in shown(app.screen))
        await pilot.press("a")  # the script never answers that one
        await until(pilot, lambda: "pending: sample" in shown(app.screen))
        await settle(pilot)

    look(app, size, pause, "paused", "x Stop", picture=False, also=LARGE)
    app.training.shutdown()


@SIZE
def test_losses_that_are_no_numbers(size: tuple[int, int], still_home: Path, look: Look) -> None:
    run = scripted_run(still_home, "wild-1", 120)
    log = run.log()
    for step in range(121, 161):
        bad = math.nan if step < 140 else math.inf
        log.append(replace(step_event(step), loss=bad, grad_norm=bad))
        log.append(Skipped(step=step, reason="loss or gradient was not finite", loss=bad, grad_norm=bad))
    log.append(Warned(step=160, message="the loss was not finite several times in a row"))
    log.append(RolledBack(step=100, from_step=160, reason="the loss was not finite several steps in a row"))
    for step in range(101, 111):
        log.append(step_event(step))
    for step in range(111, 131):
        log.append(replace(step_event(step), loss=math.nan, grad_norm=math.inf))
    log.append(Finished(step=130, status="failed", reason="the loss stayed non-finite"))
    log.close()
    app = app_with(still_home)
    step = showing(app, "wild-1", "failed", "loss —", "r Resume")
    look(app, size, step, "step 130 of 600", "loss (nats", picture=False, also=LARGE)


@SIZE
def test_one_chart_maximised_with_the_cursor_on_it(size: tuple[int, int], still_home: Path, look: Look) -> None:
    scripted_run(still_home, "old-1", 330, end="stopped")
    app = app_with(still_home)
    step = showing(app, "old-1", "step 3", "r Resume", keys="m y plus comma")
    look(app, size, step, "step 3", "r Resume", also=LARGE)


@SIZE
def test_other_runs_overlaid(size: tuple[int, int], still_home: Path, look: Look) -> None:
    for name, steps in (("old-1", 330), ("older-1", 200), ("oldest-1", 90)):
        scripted_run(still_home, name, steps, end="stopped")
    app = app_with(still_home)
    step = showing(app, "old-1", "older-1", "oldest-1", keys="o space j space enter")
    look(app, size, step, "older-1", "oldest-1", also=LARGE)


@SIZE
def test_a_run_that_ended_before_its_first_step(size: tuple[int, int], still_home: Path, look: Look) -> None:
    run = Run.create(still_home, "short-1", RunConfig())
    log = run.log()
    log.append(started_event())
    log.append(Finished(step=0, status="failed", reason="the corpus is empty"))
    log.close()
    app = app_with(still_home)
    step = showing(app, "short-1", "failed", "no data logged")
    look(app, size, step, "short-1  failed", picture=False, also=LARGE)


def test_a_run_that_was_deleted_meanwhile(still_home: Path, look: Look) -> None:
    run = scripted_run(still_home, "old-1", 120)
    app = app_with(still_home)

    async def delete(pilot: Pilot[int]) -> None:
        await showing(app, "old-1", "not running")(pilot)
        shutil.rmtree(run.path)
        await until(pilot, lambda: "deleted or moved" in shown(app.screen))
        await settle(pilot)

    look(app, SMALL, delete, "old-1", picture=False)
