"""What opens over the Presets, Runs and Data screens, and those screens while something goes on or has failed.

After a wanted change: `pytest tests/workbench/test_pictures_windows.py --snapshot-update`; look at what has changed.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

import workbench.presets.preflight_line as preflight_module
from llm.config import from_mapping
from llm.events import Progress
from llm.files import write_json
from llm.run import Run
from tests.workbench.key_rows import at
from tests.workbench.opening import app_with
from tests.workbench.pictures_for_tests import LARGE, SMALL, Look, Step, old_runs, settle
from tests.workbench.runs_for_tests import make_run, save_fake
from tests.workbench.scripted import NoPreflight, scripted_run
from tests.workbench.waiting import shown, until
from workbench.charts.chart import Chart
from workbench.data.dialogs import PrepareDialog
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.data.screen import DataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.presets.fit_dialog import FitDialog
from workbench.runs.compare_dialog import CompareScreen
from workbench.runs.fork_screen import ForkScreen, initial_config
from workbench.runs.overlay_screen import OverlayScreen
from workbench.runs.screen import RunsScreen
from workbench.runs.trash import move_to_trash
from workbench.runs.trash_screen import TrashScreen
from workbench.train.queue import RunQueue
from workbench.train.queue_screen import QueueScreen
from workbench.ui.dialogs import Ask, AskText, Help
from workbench.ui.palette import Palette
from workbench.ui.settings_screen import PressKey, SettingsScreen

SIZE = pytest.mark.parametrize("size", [SMALL], ids=["80x24"])
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
"""For what is laid out differently where there is room."""
SELDOM = pytest.mark.slow
"""Without a picture, of what the tests of the keys and of the screen see too."""
Size = tuple[int, int]


def steps(mode: str, ready: str, *keys: str, then: Any = None, until_shown: str = "") -> Step:
    """Go to a screen, wait for a text, press keys one by one, wait for the window `then` and for another text."""

    async def go(pilot: Pilot[int]) -> None:
        app: Any = pilot.app
        await app.action_show(mode)
        await until(pilot, lambda: app.screen.id == mode and ready in shown(app.screen))
        await settle(pilot)
        for key in keys:
            await pilot.press(key)
        await until(pilot, lambda: then is None or at(then)(app))
        await until(pilot, lambda: until_shown in shown(app.screen))
        await settle(pilot)

    return go


def family(home: Path) -> None:
    """A run, two forks of it, a fork of a fork, with checkpoints, tags and notes."""
    first = make_run(home, "first-1", steps=40, loss=2.0)
    for step in (20, 40):
        save_fake(first, step, 2.0)
    first.update_meta(tags=["base", "日本"], notes="the one to begin from", pins=[20])
    for name, parent, end in (
        ("first-1-fork-1", "first-1@40", "stopped"),
        ("first-1-fork-2", "first-1@20", ""),
        ("deeper-1", "first-1-fork-1@40", "finished"),
    ):
        config = from_mapping({"train": {"steps": 500, "lr": 2e-3}, "data": {"corpus": "pylib", "size_mb": 1.0}})
        run = Run.create(home, name, config, parent=parent)
        log = run.log()
        for event in Run.open(home, "first-1").events():
            log.append(event)
        log.close()
        if end == "stopped":
            save_fake(run, 40, 1.9)


async def enter_value(pilot: Pilot[int], path: str, text: str) -> None:
    """Give a field of the form another value, as a person does: mark it, Enter, the text, Enter."""
    form: Any = pilot.app.screen
    form.listing.focus()
    form.listing.highlighted = form.listing.get_option_index(path)
    await until(pilot, lambda: form.shown_path == path)
    await pilot.press("enter")
    await until(pilot, lambda: form.value_line.has_focus)
    form.value_line.value = text
    await pilot.press("enter")
    await until(pilot, lambda: form.listing.has_focus)


# --- Presets


@SIZES
def test_the_form_with_what_was_changed(size: Size, still_home: Path, look: Look) -> None:
    async def change(pilot: Pilot[int]) -> None:
        await steps("presets", "parameters", "e", then=EditScreen)(pilot)
        screen: Any = pilot.app.screen
        for path, text in (("train.steps", "77"), ("model.n_head", "7")):
            await enter_value(pilot, path, text)
        screen.listing.highlighted = screen.listing.get_option_index("train.steps")
        await until(pilot, lambda: "3 changed" in shown(screen))
        await settle(pilot)

    look(app_with(still_home), size, change, "77", "3 changed", "train.steps", picture=True)


@SELDOM
@SIZE
def test_the_difference_alone(size: Size, still_home: Path, look: Look) -> None:
    async def change(pilot: Pilot[int]) -> None:
        await steps("presets", "parameters", "e", then=EditScreen)(pilot)
        screen: Any = pilot.app.screen
        for path, text in (("train.steps", "77"), ("optim.kind", "sgd")):
            await enter_value(pilot, path, text)
        screen.action_changed_only()
        await settle(pilot)

    look(app_with(still_home), size, change, "3 changed", "optim.kind", "sgd", picture=False)


@SIZE
def test_fitting(size: Size, still_home: Path, look: Look) -> None:
    step = steps("presets", "parameters", "G", "f", then=FitDialog, until_shown="→")
    look(app_with(still_home), size, step, "→")


@SIZE
def test_a_preflight(size: Size, still_home: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "PreflightJob", NoPreflight)
    step = steps("presets", "parameters", "p", until_shown="Preflight of quickstart")
    look(app_with(still_home), size, step, "Preflight of quickstart")


# --- Runs


@SIZE
def test_the_tree_of_forks(size: Size, still_home: Path, look: Look) -> None:
    family(still_home)
    step = steps("runs", "deeper-1", "l", "g", until_shown="└ deeper-1")
    look(app_with(still_home), size, step, "├", "└ deeper-1", "first-1-fork-2", also=LARGE)


@SELDOM
@SIZE
def test_a_run_in_training_among_others(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    run = scripted_run(still_home, "busy-1", 90)
    with run.lock():
        step = steps("runs", "running here", "slash", *"busy", "enter", until_shown="busy-1")
        look(app_with(still_home), size, step, "busy-1", "running here", picture=False)


@SELDOM
@SIZE
def test_what_is_damaged(size: Size, still_home: Path, look: Look) -> None:
    family(still_home)
    (still_home / "runs" / "deeper-1" / "run.toml").write_text("[[[", encoding="utf-8")
    (still_home / "runs" / "first-1" / "checkpoints" / "step-00000020" / "weights.bin").write_bytes(b"x")

    async def verify(pilot: Pilot[int]) -> None:
        await steps("runs", "unreadable")(pilot)
        screen: Any = pilot.app.screen
        await until(
            pilot, lambda: screen.runs_table.select_key("first-1") and screen.checkpoint_table.run_name == "first-1"
        )
        await pilot.press("v")
        await until(pilot, lambda: "damaged" in shown(screen) and "intact" in shown(screen))
        pilot.app.clear_notifications()
        await settle(pilot)

    look(app_with(still_home), size, verify, "unreadable", "damaged", "intact", picture=False)


@SIZE
def test_an_overlay(size: Size, still_home: Path, look: Look) -> None:
    for place, name in enumerate(("first-1", "second-1", "third-1")):
        scripted_run(still_home, name, 300 + 100 * place, end="stopped")

    async def overlay(pilot: Pilot[int]) -> None:
        await steps("runs", "third-1", "s", "g", "space", "space", "space", "o", "v", then=OverlayScreen)(pilot)
        chart = pilot.app.screen.query_one(Chart)
        await until(pilot, lambda: [len(one.x) for one in chart.data.series] == [300, 400, 500])
        await settle(pilot)

    look(app_with(still_home), size, overlay, "first-1", "second-1", "third-1", also=LARGE)


@SIZE
def test_a_comparison(size: Size, still_home: Path, look: Look) -> None:
    family(still_home)

    async def compare(pilot: Pilot[int]) -> None:
        await steps("runs", "deeper-1")(pilot)
        screen: Any = pilot.app.screen
        screen.runs_table.marked = ["first-1", "deeper-1"]
        screen.action_compare()
        await until(pilot, lambda: at(CompareScreen)(pilot.app))
        await settle(pilot)

    look(app_with(still_home), size, compare, "first-1", "deeper-1", "train.lr", "pylib", also=LARGE)


@SIZE
def test_the_form_of_a_fork(size: Size, still_home: Path, look: Look, trained_run: Run) -> None:
    from dataclasses import replace

    from llm.run.fork import open_parent

    parent = open_parent(trained_run.path.parent.parent, "tiny-1@20")
    config = replace(
        parent.config, data=replace(parent.config.data, corpus="mine.txt")
    )  # not where this test's text is
    parent = replace(parent, config=config)

    async def fork(pilot: Pilot[int]) -> None:
        await steps("presets", "parameters")(pilot)
        await pilot.app.push_screen(ForkScreen(still_home, parent, initial_config(parent)))
        screen: Any = pilot.app.screen
        await until(pilot, lambda: "continues at step 20" in shown(screen))
        await enter_value(pilot, "train.lr", "0.002")
        screen.listing.highlighted = screen.listing.get_option_index("train.lr")
        await settle(pilot)

    look(app_with(still_home), size, fork, "continues at step 20", "0.002")


@SIZE
def test_what_deleting_loses(size: Size, still_home: Path, look: Look) -> None:
    family(still_home)

    async def delete(pilot: Pilot[int]) -> None:
        await steps("runs", "first-1")(pilot)
        screen: Any = pilot.app.screen
        await until(
            pilot, lambda: screen.runs_table.select_key("first-1") and screen.checkpoint_table.run_name == "first-1"
        )
        await pilot.press("d")
        await until(pilot, lambda: at(Ask)(pilot.app))
        await settle(pilot)

    look(app_with(still_home), size, delete, "all 2 checkpoints")


@SELDOM
@SIZE
def test_notes_are_asked_for(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    step = steps("runs", "third-1", "n", then=AskText)
    look(app_with(still_home), size, step, "third-1", picture=False)


@SIZE
def test_the_queue(size: Size, still_home: Path, look: Look) -> None:
    for name in ("wait-1", "wait-2"):
        RunQueue(still_home).add(make_run(still_home, name))
    step = steps("runs", "wait-1", "w", then=QueueScreen, until_shown="wait-2")
    app = app_with(still_home)
    look(app, size, step, "wait-1", "wait-2")


@SELDOM
@SIZE
def test_the_trash(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    for name in ("first-1", "second-1"):
        move_to_trash(still_home, Run.open(still_home, name))
    step = steps("runs", "third-1", "x", then=TrashScreen, until_shown="In the trash")
    look(app_with(still_home), size, step, "first-1", "second-1", "In the trash", picture=False)


@SELDOM
@SIZE
def test_prepared_data(size: Size, still_home: Path, look: Look) -> None:
    run = make_run(still_home, "a-1", steps=4)
    write_json(save_fake(run, 4, 1.0).path / "state.json", {"data_fingerprint": "aa11"})
    for name in ("aa11", "bb22"):
        (still_home / "data" / name).mkdir(parents=True)
        write_json(still_home / "data" / name / "dataset.json", {"corpus": f"{name}.txt"})
    step = steps("runs", "a-1", "D", then=PreparedDataScreen, until_shown="unused: 1")
    look(app_with(still_home), size, step, "aa11.txt", "bb22.txt", "unused: 1", picture=False)


# --- Data


@SIZE
def test_how_to_prepare(size: Size, still_home: Path, look: Look) -> None:
    step = steps("data", "Beginning", "enter", then=PrepareDialog)
    look(app_with(still_home), size, step, "stories")


@SIZE
def test_something_is_prepared(size: Size, still_home: Path, look: Look) -> None:
    def half() -> Generator[Progress, None, None]:
        while True:  # until the app ends
            yield Progress(stage="Tokenizing", done=40.0, total=100.0, unit="MB", rate=2.0)
            time.sleep(0.05)

    async def prepare(pilot: Pilot[int]) -> None:
        await steps("data", "Beginning")(pilot)
        screen: Any = pilot.app.screen
        assert isinstance(screen, DataScreen)
        screen.jobs.start("Preparing stories", half)
        await until(pilot, lambda: "Tokenizing" in shown(screen))
        await settle(pilot)

    app = app_with(still_home)
    look(app, size, prepare, "Tokenizing", "x Cancel", picture=False)


@SIZE
def test_a_text_is_asked_for(size: Size, still_home: Path, look: Look) -> None:
    async def ask(pilot: Pilot[int]) -> None:
        await steps("data", "Beginning", "a", then=AskText)(pilot)
        await pilot.press(*"ftp://x")
        await until(pilot, lambda: "cannot be downloaded" in shown(pilot.app.screen))
        await settle(pilot)

    look(app_with(still_home), size, ask, "cannot be downloaded", "ftp://x")


# --- everywhere


@SIZE
def test_the_palette(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    step = steps("runs", "third-1", "ctrl+p", then=Palette, until_shown="Fork")
    look(app_with(still_home), size, step, "Fork")


@SIZE
def test_help(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    step = steps("runs", "third-1", "question_mark", then=Help)
    look(app_with(still_home), size, step, "Fork")


@SIZE
def test_settings(size: Size, still_home: Path, look: Look) -> None:
    async def settings(pilot: Pilot[int]) -> None:
        app: Any = pilot.app
        app.action_settings()
        await until(pilot, lambda: at(SettingsScreen)(app) and "theme: workbench-dark" in shown(app.screen))
        await settle(pilot)

    look(app_with(still_home), size, settings, "theme: workbench-dark", "smoothing of the loss")


@SIZE
def test_a_key_is_asked_for(size: Size, still_home: Path, look: Look) -> None:
    async def ask(pilot: Pilot[int]) -> None:
        app: Any = pilot.app
        app.action_settings()
        await until(pilot, lambda: at(SettingsScreen)(app) and "theme: workbench-dark" in shown(app.screen))
        listing = app.screen.listing
        listing.highlighted = listing.get_option_index("runs.fork")
        await pilot.press("enter")
        await until(pilot, lambda: at(PressKey)(app))
        await pilot.press("r")
        await until(pilot, lambda: "r is used by runs.resume" in shown(app.screen))
        await settle(pilot)

    look(app_with(still_home), size, ask, "r is used by runs.resume")


@SELDOM
@SIZE
def test_themes(size: Size, still_home: Path, look: Look) -> None:
    old_runs(still_home)
    app = app_with(still_home)

    async def change(pilot: Pilot[int]) -> None:
        for theme in ("terminal-dark", "workbench-light", "colour-blind-safe", "high-contrast"):
            app.theme = theme
            await steps("runs", "third-1")(pilot)
            assert isinstance(app.screen, RunsScreen)

    look(app, size, change, "first-1", "third-1")
