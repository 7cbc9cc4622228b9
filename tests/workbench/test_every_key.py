"""Every key of the Presets, Runs, Data and Settings screens and of their windows, pressed (`key_rows.py`).

The last test compares the rows with what the classes declare, so that no key is without a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

import workbench.presets.preflight_line as preflight_module
from llm.events import Progress
from llm.files import write_json
from llm.run import Run
from tests.workbench.key_rows import (
    CACHED,
    COMPARE,
    DATA,
    EDIT,
    FIT,
    FORK,
    HELP,
    LISTS,
    OVERLAY,
    PRESETS,
    QUEUE,
    RUNS,
    SETTINGS,
    TRASH,
    Holds,
    Row,
    at,
)
from tests.workbench.opening import app_with
from tests.workbench.runs.screen_for_tests import RunsApp
from tests.workbench.runs_for_tests import make_run
from tests.workbench.scripted import NoPreflight, prepared_trainer
from tests.workbench.waiting import shown, until
from workbench.data.corpora import add_corpus
from workbench.data.jobs import DataJob
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.data.screen import DataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.presets.fit_dialog import FitDialog
from workbench.presets.screen import PresetsScreen
from workbench.runs.compare_dialog import CompareScreen
from workbench.runs.fork_screen import ForkScreen
from workbench.runs.overlay_screen import OverlayScreen
from workbench.runs.screen import RunsScreen
from workbench.runs.trash import move_to_trash
from workbench.runs.trash_screen import TrashScreen
from workbench.train.queue import RunQueue
from workbench.train.queue_screen import QueueScreen
from workbench.train.service import Overrides, TrainingService
from workbench.ui.dialogs import Help
from workbench.ui.key_map import all_bindings
from workbench.ui.settings_screen import SettingsScreen

SWEEP = pytest.mark.slow
"""What a key of these does is also seen, for most keys, by the tests of their screens."""
ROOMS = (
    "runs", "presets", "edit", "fork", "fit", "data", "settings", "dialog", "help", "queue", "trash", "cached", "store",
    "compare", "overlay", "list", "screen",
)  # fmt: skip


async def press_all(pilot: Pilot[int], rows: Sequence[Row]) -> None:
    """Press the keys of the rows one after the other, each followed by those that lead back."""
    app = pilot.app
    for identity, key, holds, back in rows:
        before = type(app.screen)
        await pilot.press(key)
        await until(pilot, named(f"{identity} {key}", holds, app))
        for leading in back:
            await pilot.press(leading)
        if back:
            await until(pilot, named(f"{identity} {key}, back", at(before), app))


def named(what: str, holds: Holds, app: object) -> Callable[[], object]:
    """The condition, under a name that a failure shows."""

    def condition() -> object:
        return holds(app)

    condition.__qualname__ = what
    return condition


@pytest.fixture
def home_of_two(trained_home: Path) -> Path:
    """A finished run of 20 steps with two checkpoints, and one that was stopped."""
    make_run(trained_home, "beta-1", steps=5, end="stopped")
    return trained_home


class BeginsOnly(TrainingService):
    """Notes the runs it is told to begin, and trains none. The first of the queue stays in training for ever."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.begun: list[str] = []

    def begin(self, run: Run, overrides: Overrides = ()) -> bool:
        self.begun.append(run.name)
        return True

    def is_busy(self, name: str) -> bool:
        return True


def runs_app(home: Path) -> tuple[RunsApp, list[str]]:
    """The app on its Runs screen, and the names of the runs it is told to begin."""
    training = BeginsOnly(home)
    return RunsApp(home, training), training.begun


async def runs_opened(app: RunsApp, pilot: Pilot[int], name: str) -> RunsScreen:
    screen: Any = app.screen
    await until(pilot, lambda: screen.runs_table.select_key(name) and screen.checkpoint_table.run_name == name)
    return screen  # type: ignore[no-any-return]


async def test_runs(home_of_two: Path) -> None:
    app, _ = runs_app(home_of_two)
    async with app.run_test(size=(120, 40)) as pilot:
        await runs_opened(app, pilot, "beta-1")
        await pilot.press("g")
        await press_all(pilot, LISTS)
        await runs_opened(app, pilot, "tiny-1")
        await press_all(pilot, RUNS)


@SWEEP
async def test_curves_and_configurations_of_several(home_of_two: Path) -> None:
    app, _ = runs_app(home_of_two)
    async with app.run_test(size=(120, 40)) as pilot:
        await runs_opened(app, pilot, "tiny-1")
        await pilot.press("space")
        await runs_opened(app, pilot, "beta-1")
        await pilot.press("o")
        await until(pilot, lambda: at(OverlayScreen)(app))
        await press_all(pilot, OVERLAY)
        await pilot.press("equals_sign")
        await until(pilot, lambda: at(CompareScreen)(app))
        await press_all(pilot, COMPARE)


async def test_the_queue(home: Path) -> None:
    for name in ("a-1", "b-1", "c-1"):
        RunQueue(home).add(make_run(home, name))
    app, begun = runs_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await runs_opened(app, pilot, "a-1")
        await pilot.press("w")
        await until(pilot, lambda: at(QueueScreen)(app) and app.screen.table.current == "a-1")  # type: ignore[attr-defined]
        await press_all(pilot, QUEUE)
    assert begun == ["a-1"]


@SWEEP
async def test_the_trash_and_the_data(home: Path) -> None:
    for name in ("a-1", "b-1", "c-1"):
        move_to_trash(home, make_run(home, name))
    (home / "data" / "bb").mkdir(parents=True)
    write_json(home / "data" / "bb" / "dataset.json", {"corpus": "corpus-bb"})
    app, _ = runs_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.has_class("empty"))
        await pilot.press("x")
        await until(pilot, lambda: at(TrashScreen)(app) and "c-1" in shown(app.screen))
        await press_all(pilot, TRASH)
        await pilot.press("escape")
        await until(pilot, lambda: at(RunsScreen)(app))
        await pilot.press("D")
        await until(pilot, lambda: at(PreparedDataScreen)(app) and "unused: 1" in shown(app.screen))
        await press_all(pilot, CACHED)


@SWEEP
async def test_presets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "PreflightJob", NoPreflight)
    app = app_with(home, prepared_trainer())
    async with app.run_test(size=(120, 40)) as pilot:
        screen: Any = app.screen
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and screen.current == "quickstart")
        await press_all(pilot, PRESETS[:3])
        screen.edited["quickstart"] = screen.config()
        await press_all(pilot, PRESETS[3:])
        app.queue.remove("quickstart-2")
        app.training.shutdown()


@SWEEP
async def test_the_form(home: Path) -> None:
    app = app_with(home, prepared_trainer())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("e")
        await until(pilot, lambda: at(EditScreen)(app))
        mark(app.screen, "optim.kind")
        await press_all(pilot, EDIT)
        app.training.shutdown()


def mark(form: Any, path: str) -> None:
    form.listing.highlighted = form.listing.get_option_index(path)


@SWEEP
async def test_the_form_of_a_fork(home_of_two: Path) -> None:
    app, begun = runs_app(home_of_two)
    async with app.run_test(size=(120, 40)) as pilot:
        await runs_opened(app, pilot, "tiny-1")
        await pilot.press("f")
        await until(pilot, lambda: at(ForkScreen)(app))
        mark(app.screen, "optim.kind")
        await press_all(pilot, FORK[:-2])
        await pilot.press("Q")
        await until(pilot, named("fork.queue Q", FORK[-2][2], app))
        await until(pilot, lambda: begun == ["tiny-1-fork-1"])
        await runs_opened(app, pilot, "tiny-1")
        await pilot.press("f")
        await until(pilot, lambda: at(ForkScreen)(app))
        await press_all(pilot, FORK[-1:])
        await pilot.press("enter")
        await until(pilot, lambda: app.sent[-1:] == [("train", "tiny-1-fork-2")])


@SWEEP
async def test_fitting(home: Path) -> None:
    app = app_with(home, prepared_trainer())
    async with app.run_test(size=(80, 16)) as pilot:
        screen: Any = app.screen
        await until(pilot, lambda: screen.current == "quickstart")
        listing = screen.query_one("#preset-list")
        listing.highlighted = listing.get_option_index("gpt2-124m")
        await until(pilot, lambda: screen.current == "gpt2-124m")
        await pilot.press("f")
        await until(pilot, lambda: at(FitDialog)(app))
        app.screen.query_one(Input).value = "1"
        await until(pilot, lambda: app.screen.query_one("#fit-scroll").max_scroll_y > 0)
        await press_all(pilot, FIT)


def without_end() -> Generator[Progress, None, None]:
    while True:
        yield Progress(stage="Tokenizing", done=1, total=2)


@SWEEP
async def test_data(home: Path, corpus: Path) -> None:
    add_corpus(home, str(corpus))
    app = app_with(home, prepared_trainer())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: at(DataScreen)(app) and "stories" in shown(app.screen))
        screen: Any = app.screen
        screen.listing.highlighted = screen.listing.get_option_index(f"added {corpus}")
        await until(pilot, lambda: screen.current == f"added {corpus}" and "Ada saw" in shown(screen))
        await press_all(pilot, DATA[:-1])
        screen.jobs.start("preparing for ever", without_end)
        assert isinstance(screen.jobs.job, DataJob)
        await press_all(pilot, DATA[-1:])


@SWEEP
async def test_settings(home: Path) -> None:
    app = app_with(home, prepared_trainer())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        app.theme = "high-contrast"
        await until(pilot, lambda: app.settings.theme == "high-contrast")
        app.action_settings()
        await until(pilot, lambda: at(SettingsScreen)(app) and "theme: high-contrast" in shown(app.screen))
        await press_all(pilot, SETTINGS)


@SWEEP
async def test_help(home: Path) -> None:
    app, _ = runs_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.has_class("empty"))
        await pilot.press("question_mark")
        await until(pilot, lambda: at(Help)(app) and app.screen.query_one("VerticalScroll").max_scroll_y > 2)
        await press_all(pilot, HELP)


def test_no_key_is_without_a_row() -> None:
    tables = (LISTS, RUNS, OVERLAY, COMPARE, QUEUE, TRASH, CACHED, PRESETS, EDIT, FORK, FIT, DATA, SETTINGS, HELP)
    pressed = {(identity, key) for table in tables for identity, key, _, _ in table}
    declared = {
        (identity, key)
        for identity, bindings in all_bindings().items()
        if identity.partition(".")[0] in ROOMS
        for binding in bindings
        for key in binding.key.split(",")
    }
    assert declared == pressed
