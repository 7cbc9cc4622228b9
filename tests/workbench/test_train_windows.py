"""The Train screen under windows: it goes on, and what is asked in them reaches the run that was meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from llm.config import RunConfig
from llm.events import Warned
from llm.run import Run
from tests.workbench.scripted import ScriptedTrainer, write_events
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.screens.knobs import KnobsDialog
from workbench.screens.train import TrainScreen
from workbench.services.training import TrainingService
from workbench.widgets.dialogs import Ask, AskText


@asynccontextmanager
async def running_run(
    home: Path, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[Pilot[int], WorkbenchApp, TrainScreen]]:
    """The screen on a run that trains in this program and has taken 30 steps."""
    trainer = ScriptedTrainer(steps=30)
    trainer.prepared.set()
    app = WorkbenchApp(home, training=TrainingService(home, trainer=trainer))
    async with app.run_test(size=size, notifications=True) as pilot:
        app.training.start(RunConfig(), "quick")
        app.open_train("quick-1")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "running")
        assert isinstance(app.screen, TrainScreen)
        yield pilot, app, app.screen
        app.training.shutdown()


async def test_it_goes_on_in_sight_under_one_window_and_under_two(home: Path) -> None:
    async with running_run(home) as (pilot, app, _):
        log = Run.open(home, "quick-1").log()
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, KnobsDialog))
        write_events(log, 31, 60)
        await until(pilot, lambda: "step 60 of 600" in shown(app.screen) and "quick-1 10%" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        write_events(log, 61, 90)
        await until(pilot, lambda: "step 90 of 600" in shown(app.screen) and "quick-1 15%" in shown(app.screen))
        log.close()


async def test_what_happens_under_a_window_is_told(home: Path) -> None:
    async with running_run(home) as (pilot, app, _):
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        log = Run.open(home, "quick-1").log()
        log.append(Warned(step=31, message="the disk is nearly full"))
        log.close()
        await until(pilot, lambda: any("the disk is nearly full" in note.message for note in app._notifications))
