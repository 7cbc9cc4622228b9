"""The command palette has everything, and the help speaks of what has the focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.command import CommandInput, CommandPalette
from textual.pilot import Pilot

from tests.workbench.opening import app_with
from tests.workbench.scripted import scripted_run
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.runs.overlay_screen import OverlayScreen
from workbench.runs.trash_screen import TrashScreen
from workbench.train.queue_screen import QueueScreen
from workbench.ui.dialogs import Help, Waiting
from workbench.ui.keys import EVERYWHERE, working_keys
from workbench.ui.palette import Everything
from workbench.ui.settings_screen import SettingsScreen


async def choose(pilot: Pilot[int], text: str, expected: str = "") -> None:
    """Open the palette, search, and take the first that was found."""
    app = pilot.app
    await pilot.press("ctrl+p")
    await until(pilot, lambda: isinstance(app.screen, CommandPalette))
    app.screen.query_one(CommandInput).value = text
    await until(pilot, lambda: (expected or text) in shown(app.screen).split("❯")[-1] or found(app, expected or text))
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(app.screen, CommandPalette))


def found(app: Any, text: str) -> bool:
    options = app.screen.query_one("CommandList").options
    return bool(options) and text in str(options[0].prompt)


def offered(app: WorkbenchApp) -> set[str]:
    return {command.title for command in Everything(app.screen).commands()}


async def test_a_command_of_a_window_that_has_been_closed_does_nothing(home: Path) -> None:
    """Enter twice in the palette over the help: the second closes the help before its command runs."""
    app = app_with(home)
    async with app.run_test() as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        commands = {command.title: command.callback for command in Everything(app.screen).commands()}
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Help))
        await commands["Down"]()


async def test_every_key_of_a_screen_and_every_place_is_in_it(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        for mode in app.MODES:
            await app.action_show(mode)
            await until(pilot, lambda mode=mode: app.screen.id == mode and app.screen.is_current)  # type: ignore[misc]
            keys = {one.text for one in working_keys(app.screen) if one.place != EVERYWHERE and one.is_own}
            assert keys and keys <= offered(app)
            places = {f"Go to {name}" for name in ("Presets", "Train", "Runs", "Chat", "Data", "Queue", "Trash")}
            assert places | {"Go to Prepared data", "Theme", "Settings", "Screenshot", "Help", "Quit"} <= offered(app)


async def test_what_is_chosen_is_done(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.focused is not None and "parameters" in shown(app.screen))
        await choose(pilot, "Edit")
        await until(pilot, lambda: isinstance(app.screen, EditScreen))
        await choose(pilot, "Go to Runs")
        await until(pilot, lambda: app.screen.id == "runs" and "old-1" in shown(app.screen))
        for name, screen in (("Queue", QueueScreen), ("Trash", TrashScreen), ("Prepared data", PreparedDataScreen)):
            await choose(pilot, f"Go to {name}")
            await until(pilot, lambda screen=screen: isinstance(app.screen, screen))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen.id == "runs")
        await choose(pilot, "Overlay")
        await until(pilot, lambda: isinstance(app.screen, OverlayScreen))
        await choose(pilot, "Next metric")
        await until(pilot, lambda: app.screen.metric.id == "loss")  # type: ignore[attr-defined]
        await choose(pilot, "Settings")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen))
        await choose(pilot, "Curves of old")
        await until(pilot, lambda: app.screen.id == "train" and "old-1" in shown(app.screen))


async def test_there_is_no_way_out_of_waiting(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(Waiting("Saving old-1…"))
        await choose(pilot, "Go to Data")
        await pilot.pause(0.1)
        assert isinstance(app.screen, Waiting)


async def test_help_speaks_of_what_has_the_focus_first(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 50)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: app.screen.id == "runs" and "old-1" in shown(app.screen))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Focused pane" in shown(app.screen))
        assert "All runs with their latest figures" in shown(app.screen)
        await pilot.press("question_mark")
        await until(pilot, lambda: app.screen.id == "runs")
        app.screen.checkpoint_table.focus()  # type: ignore[attr-defined]
        await until(pilot, lambda: app.focused is not None and app.focused.id == "run-checkpoints")
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help) and "checkpoints of the selected" in shown(app.screen))
        await pilot.press("j", "k", "q")
        await until(pilot, lambda: app.screen.id == "runs")


async def test_help_in_a_form_is_the_help_of_the_field(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 50)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, EditScreen))
        screen: Any = app.screen
        screen.listing.highlighted = screen.listing.get_option_index("train.lr")
        await until(pilot, lambda: screen.field.path == "train.lr")
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help) and screen.field.help[:40] in shown(app.screen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
