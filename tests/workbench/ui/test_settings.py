"""Settings: what they hold, what is wrong with them, and what they change."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.widgets import Input, OptionList

from llm.errors import UserError
from tests.workbench.opening import app_with
from tests.workbench.scripted import scripted_run
from tests.workbench.waiting import shown, until, was_notified
from workbench.charts.chart import Chart
from workbench.train.screen import TrainScreen
from workbench.ui.dialogs import Ask, AskText
from workbench.ui.key_map import all_bindings, clash, classes_with_keys, keys_of
from workbench.ui.settings import FILE, SET_ASIDE, Settings, load_settings, save_settings
from workbench.ui.settings_screen import PressKey, SettingsScreen


def test_what_is_written_is_read_again(home: Path) -> None:
    settings = Settings("high-contrast", 0.5, 0.9, {"train.save": "w", "app.help": "f3,question_mark"})
    save_settings(home, settings)
    assert load_settings(home) == settings


def test_without_a_file_there_are_the_defaults(home: Path) -> None:
    assert load_settings(home) == Settings()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('theme = "high-contrast"\nsmoothing = 3\n', "line 2: smoothing must be a number from 0 to 0.999"),
        ('\n\ntheme = "pink"\n', "line 3: theme must be one of"),
        ("smooth = 0.5\n", "line 1: smooth is not a setting"),
        ("smoothing = true\n", "line 1: smoothing must be a number"),
        ('[keys]\n"train.save" = "ctrl+ s"\n', "line 2: keys has 'ctrl+ s' for train.save"),
        ("smoothing = \n", "line 1"),
    ],
)
def test_what_is_wrong_is_reported_with_its_line(home: Path, text: str, what: str) -> None:
    (home / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as told:
        load_settings(home)
    assert what in str(told.value)


async def test_a_bad_file_is_reported_and_kept_when_another_is_written(home: Path) -> None:
    (home / FILE).write_text("smoothing = 3\n", encoding="utf-8")
    app = app_with(home)
    async with app.run_test(size=(160, 40), notifications=True) as pilot:
        await until(pilot, lambda: "line 1: smoothing must be" in shown(app.screen))
        assert app.settings == Settings()
        app.theme = "high-contrast"
        await until(pilot, lambda: (home / SET_ASIDE).exists())
    assert load_settings(home).theme == "high-contrast"
    assert (home / SET_ASIDE).read_text(encoding="utf-8") == "smoothing = 3\n"


async def test_theme_and_numbers_are_changed_in_the_dialog(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        app.action_settings()
        await until(
            pilot, lambda: isinstance(app.screen, SettingsScreen) and "theme: workbench-dark" in shown(app.screen)
        )
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "theme: terminal-light" in shown(app.screen))
        assert app.theme == "terminal-light"
        await pilot.press("j", "j", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = "7"
        await until(pilot, lambda: "must be a number from 0 to 0.999" in shown(app.screen))
        app.screen.query_one(Input).value = "0.95"
        await pilot.press("enter")
        await until(pilot, lambda: app.settings.smoothing == 0.95)
        await pilot.press("backspace")
        await until(pilot, lambda: app.settings.smoothing == 0.8)
    assert load_settings(home) == Settings(theme="terminal-light")


async def test_a_key_is_given_to_something_and_taken_back(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "old-1" in shown(app.screen))
        app.action_settings()
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and "theme:" in shown(app.screen))
        listing = app.screen.query_one(OptionList)
        listing.highlighted = listing.get_option_index("chart.log")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PressKey))
        await pilot.press("p")
        await until(pilot, lambda: "p is used by train.pause" in shown(app.screen))
        await pilot.press("z")
        await until(pilot, lambda: app.settings.keys == {"chart.log": "z"})
        await pilot.press("escape", "z")
        chart = app.screen.query_one("#loss-chart", Chart)
        await until(pilot, lambda: chart.log_axis)
        await pilot.press("y")
        chart.focus()
        await until(pilot, lambda: chart.has_focus)
        await pilot.press("z")
        await until(pilot, lambda: not chart.log_axis)
        app.action_settings()
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and "theme:" in shown(app.screen))
        listing = app.screen.query_one(OptionList)
        listing.highlighted = listing.get_option_index("chart.log")
        await pilot.press("backspace")
        await until(pilot, lambda: not app.settings.keys)


async def test_pausing_and_going_on_keep_sharing_a_key(home: Path) -> None:
    save_settings(home, Settings(keys={"train.pause": "z"}))
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "ended")
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        for state, action in (("running", "pause"), ("paused", "unpause")):
            screen.view.state = state  # type: ignore[assignment]
            screen.refresh_bindings()
            assert screen.active_bindings["z"].binding.action == action


async def test_redraws_and_smoothing_are_those_of_the_settings(home: Path) -> None:
    save_settings(home, Settings(redraws_per_second=0.5, smoothing=0.98))
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "smooth 0.98" in shown(app.screen))
        assert isinstance(app.screen, TrainScreen)
        assert app.screen.view.redraw_seconds == 2.0


async def test_an_id_that_nothing_has_is_reported(home: Path) -> None:
    save_settings(home, Settings(keys={"train.savee": "z"}))
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: was_notified(app, "train.savee"))
        assert was_notified(app, "did you mean train.save?")


def test_every_key_can_be_given_away() -> None:
    rooms = {"presets", "edit", "fork", "fit", "prepare", "runs", "store", "compare", "overlay", "data", "settings"}
    for node in classes_with_keys():
        if node.__module__.rpartition(".")[2] in rooms | {"base", "run_actions", "dialogs", "lists", "tables"}:
            for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())):
                assert binding.id, f"{node.__name__}: {binding.key}"


def test_no_key_has_two_uses_in_one_place_from_the_start() -> None:
    clashes = [
        (identity, key, other)
        for identity, bindings in all_bindings().items()
        for key in keys_of(bindings).split(",")
        if (other := clash(identity, key, Settings()))
    ]
    assert clashes == []


def test_keys_are_listed_screen_by_screen_in_any_order_of_loading() -> None:
    places = [identity.partition(".")[0] for identity in all_bindings()]
    rooms = [room for room, _ in itertools.groupby(places)]
    assert rooms[:3] == ["app", "screen", "list"] and len(rooms) == len(set(rooms)), "each room once"
    windows = rooms[rooms.index("data") + 1 :]
    assert windows and windows == sorted(windows)


def test_a_clash_is_one_of_keys_that_work_together() -> None:
    assert {"train.pause", "chart.log", "app.help", "data.add", "presets.edit"} <= all_bindings().keys()
    assert clash("train.save", "x", Settings()) == "train.stop"
    assert clash("train.save", "x", Settings(keys={"train.stop": "z"})) == ""
    assert clash("data.add", "p", Settings()) == ""
