"""A run that has reached its length is trained for longer: what that does to its learning rate is asked first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.scripted import prepared_trainer
from tests.workbench.waiting import shown, until
from workbench.ui.dialogs import Ask, AskSteps


@pytest.mark.parametrize(
    ("mode", "presses", "kept"),
    [
        ("train", ("enter",), False),
        pytest.param("train", ("down", "enter"), True, marks=pytest.mark.slow),
        ("runs", ("down", "enter"), True),
        ("runs", ("escape",), None),
    ],
)
async def test_the_rate_is_asked_for_before_training(
    trained_run: Run, home: Path, mode: str, presses: tuple[str, ...], kept: bool | None
) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 40)) as pilot:
        if mode == "train":
            app.open_train("tiny-1")
            await until(pilot, lambda: "Resume" in shown(app.screen) and "tiny-1" in shown(app.screen))
        else:
            await app.action_show("runs")
            await until(pilot, lambda: "tiny-1" in shown(app.screen))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskSteps) and "finished at step 20" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: type(app.screen) is Ask and "Keep the rate at 6.16e-05" in shown(app.screen))
        assert isinstance(app.screen, Ask)
        assert "goes from 6.16e-05, where the run stands, to 5.00e-03 at step 21" in app.screen.question
        await pilot.press(*presses)
        await until(pilot, lambda: len(app.screen_stack) == 1)
        if kept is None:
            assert app.training.active is None
            return
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()
    overrides = dict(trainer.overrides)
    assert overrides["train.steps"] == "40" and ("schedule.kind" in overrides) == kept
