"""The app in tests, with a trainer that follows a script, and the way to its screens."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import OptionList

from tests.workbench.scripted import ScriptedTrainer
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.data.screen import DataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.train.screen import TrainScreen
from workbench.train.service import TrainingService


def app_with(home: Path, trainer: ScriptedTrainer | None = None, watch: str | None = None) -> WorkbenchApp:
    """The app on `home`; what it starts is "trained" by `trainer`, or by a new one."""
    return WorkbenchApp(home, training=TrainingService(home, trainer=trainer or ScriptedTrainer()), watch=watch)


async def open_train_screen(app: WorkbenchApp, pilot: Pilot[int], name: str) -> TrainScreen:
    app.open_train(name)
    await until(pilot, lambda: app.current_mode == "train" and name in shown(app.screen))
    assert isinstance(app.screen, TrainScreen)
    return app.screen


async def open_data_screen(app: WorkbenchApp, pilot: Pilot[int]) -> DataScreen:
    await pilot.press("5")
    await until(pilot, lambda: app.current_mode == "data" and "stories" in shown(app.screen))
    assert isinstance(app.screen, DataScreen)
    return app.screen


async def open_form(app: WorkbenchApp, pilot: Pilot[int]) -> EditScreen:
    """The form of the preset that is selected."""
    await until(pilot, lambda: app.focused is not None)
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.screen, EditScreen))
    assert isinstance(app.screen, EditScreen)
    return app.screen


def select_field(form: EditScreen, path: str) -> None:
    listing = form.query_one("#edit-fields", OptionList)
    listing.highlighted = listing.get_option_index(path)
