"""Attaching to a run that another process trains: its curves are shown, and its keys steer it there."""

from __future__ import annotations

from pathlib import Path

from llm.config import with_overrides
from llm.events import Finished, KnobSet
from llm.run import Run
from tests.conftest import tiny_config
from tests.forking import ForkedProgram, run_trainer
from tests.workbench.waiting import until
from workbench.app import WorkbenchApp
from workbench.train.screen import TrainScreen
from workbench.ui.dialogs import Ask


async def test_a_process_is_watched_and_steered(home: Path, corpus: Path) -> None:
    config = with_overrides(tiny_config(corpus), [("train.steps", "1000000"), ("checkpoint.every", "0")])
    run = Run.create(home, "far-1", config)
    process = ForkedProgram(run_trainer, str(run.path))
    try:
        app = WorkbenchApp(home, watch="far-1")
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, TrainScreen))
            screen = app.screen
            assert isinstance(screen, TrainScreen)
            await until(pilot, lambda: screen.state == "running" and screen.curves and screen.curves.step > 5)
            await pilot.press("p")
            await until(pilot, lambda: screen.state == "paused")
            await pilot.press("s", "p")
            await until(pilot, lambda: screen.state == "running" and run.checkpoints())
            app.training.send("far-1", "set", key="train.lr_multiplier", value="0.5")
            await until(pilot, lambda: screen.curves and "train.lr_multiplier" in screen.curves.settings)
            await pilot.press("x")
            await until(pilot, lambda: isinstance(app.screen, Ask))
            await pilot.press("enter")
            await until(pilot, lambda: screen.state == "ended")
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
    events = list(run.events())
    assert any(isinstance(event, KnobSet) and event.command_id for event in events)
    assert isinstance(events[-1], Finished) and events[-1].status == "stopped"
    assert run.checkpoint().step == events[-1].step
