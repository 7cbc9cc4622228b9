"""Every key of the Presets, Runs, Data and Settings screens and of their windows, pressed, with what it does.

A row is the id of a binding, the key, what holds soon afterwards, and the keys that lead back. The last test compares
the rows with what the classes declare, so that no key is without a row.
"""

from __future__ import annotations

import shutil
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
from tests.workbench.runs.test_runs_screen import RunsApp
from tests.workbench.runs_for_tests import make_run
from tests.workbench.scripted import ScriptedTrainer
from tests.workbench.waiting import shown, until, was_notified
from workbench.app import WorkbenchApp
from workbench.data.corpora import add_corpus
from workbench.data.dialogs import PrepareDialog
from workbench.data.jobs import DataJob
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.data.screen import DataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.presets.fit_dialog import FitDialog
from workbench.presets.needs_dialog import NeedsDialog
from workbench.presets.screen import PresetsScreen
from workbench.runs.compare_dialog import CompareScreen
from workbench.runs.export_dialog import ExportDialog
from workbench.runs.fork_screen import ForkScreen
from workbench.runs.overlay_screen import OverlayScreen
from workbench.runs.screen import RunsScreen
from workbench.runs.trash import move_to_trash
from workbench.runs.trash_screen import TrashScreen
from workbench.train.queue import RunQueue
from workbench.train.queue_screen import QueueScreen
from workbench.train.service import Overrides, TrainingService
from workbench.ui.dialogs import Ask, AskSteps, AskText, Help
from workbench.ui.key_map import all_bindings
from workbench.ui.settings_screen import SettingsScreen

SWEEP = pytest.mark.slow
"""What a key of these does is also seen, for most keys, by the tests of their screens."""
Holds = Callable[[Any], object]
Row = tuple[str, str, Holds, tuple[str, ...]]
ROOMS = (
    "runs", "presets", "edit", "fork", "fit", "data", "settings", "dialog", "help", "queue", "trash", "cached", "store",
    "compare", "overlay", "list", "screen",
)  # fmt: skip


def row(identity: str, key: str, holds: Holds, *back: str) -> Row:
    return identity, key, holds, back


def at(kind: type) -> Holds:
    """The screen in front is of this kind."""
    return lambda app: type(app.screen) is kind


def notified(words: str) -> Holds:
    return lambda app: was_notified(app, words)


def focus(identity: str) -> Holds:
    return lambda app: app.focused is not None and app.focused.id == identity


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


def app_with(home: Path) -> WorkbenchApp:
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
    return WorkbenchApp(home, training=TrainingService(home, trainer=trainer))


@pytest.fixture
def trained_home(trained_run: Run, home: Path) -> Path:
    """A finished run of 20 steps with two checkpoints, and one that was stopped."""
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    make_run(home, "beta-1", steps=5, end="stopped")
    return home


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


LISTS = [
    row("list.last", "G", lambda app: app.screen.runs_table.cursor_row == 1),
    row("list.first", "g", lambda app: app.screen.runs_table.cursor_row == 0),
    row("list.down", "j", lambda app: app.screen.runs_table.cursor_row == 1),
    row("list.up", "k", lambda app: app.screen.runs_table.cursor_row == 0),
    row("screen.next", "tab", focus("run-checkpoints")),
    row("screen.previous", "shift+tab", focus("runs-list")),
]
RUNS = [
    row("runs.sort", "s", lambda app: app.screen.runs_table.sort_by == "name"),
    row("runs.reverse", "S", lambda app: app.screen.runs_table.reversed),
    row("runs.lineage", "l", lambda app: app.screen.runs_table.as_tree),
    row("runs.chat", "c", lambda app: app.sent[-1:] == [("chat", "tiny-1")]),
    row("runs.curves", "t", lambda app: app.sent[-1:] == [("train", "tiny-1")]),
    row("runs.resume", "r", at(AskSteps), "escape"),
    row("runs.fork", "f", at(ForkScreen), "escape"),
    row("runs.fine-tune", "F", at(Ask), "escape"),
    row("runs.overlay", "o", at(OverlayScreen), "escape"),
    row("runs.filter", "slash", focus("runs-filter")),
    row("runs.back", "escape", focus("runs-list")),
    row("runs.pin", "p", lambda app: Run.open(app.home, "tiny-1").meta()["pins"] == [20]),
    row("runs.verify", "v", lambda app: shown(app.screen).count("intact") == 2),
    row("runs.notes", "n", at(AskText), "escape"),
    row("runs.tags", "T", at(AskText), "escape"),
    row("runs.rename", "R", at(AskText), "escape"),
    row("runs.export", "e", lambda app: (app.home / "exports" / "tiny-1.csv").exists()),
    row("runs.export-model", "E", at(ExportDialog), "escape"),
    row("runs.import", "I", at(AskText), "escape"),
    row("runs.copy-path", "y", lambda app: app.clipboard.endswith("tiny-1")),
    row("runs.delete", "d", at(Ask), "escape"),
    row("runs.delete", "delete", at(Ask), "escape"),
    row("runs.waiting", "w", at(QueueScreen), "escape"),
    row("runs.trash", "x", at(TrashScreen), "escape"),
    row("runs.data", "D", at(PreparedDataScreen), "escape"),
    row("runs.serve", "A", lambda app: app.serving.server is not None, "escape"),
    row("runs.queue", "Q", notified("is finished (fork it, or resume it with more steps)")),
    row(
        "runs.mark",
        "space",
        lambda app: app.screen.runs_table.marked == ["tiny-1"] and app.screen.runs_table.current == "beta-1",
    ),
    row("runs.compare", "equals_sign", at(CompareScreen), "escape"),
]


async def test_runs(trained_home: Path) -> None:
    app, _ = runs_app(trained_home)
    async with app.run_test(size=(120, 40)) as pilot:
        await runs_opened(app, pilot, "beta-1")
        await pilot.press("g")
        await press_all(pilot, LISTS)
        await runs_opened(app, pilot, "tiny-1")
        await press_all(pilot, RUNS)


OVERLAY = [
    row("overlay.quantity", "v", lambda app: app.screen.metric.id == "loss"),
    row("overlay.quantity-before", "V", lambda app: app.screen.metric.id == "validation_loss"),
    row("overlay.unit", "u", lambda app: app.screen.unit == "tokens"),
    row("overlay.back", "q", at(RunsScreen), "o"),
    row("overlay.back", "escape", at(RunsScreen)),
]
COMPARE = [
    row("compare.all", "a", lambda app: app.screen.everything),
    row("compare.back", "q", at(RunsScreen), "equals_sign"),
    row("compare.back", "escape", at(RunsScreen)),
]


@SWEEP
async def test_curves_and_configurations_of_several(trained_home: Path) -> None:
    app, _ = runs_app(trained_home)
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


def waiting(*names: str) -> Holds:
    return lambda app: app.queue.names() == list(names)


QUEUE = [
    row("queue.later", "J", waiting("b-1", "a-1", "c-1")),
    row("queue.earlier", "K", waiting("a-1", "b-1", "c-1")),
    row("queue.later", "shift+down", waiting("b-1", "a-1", "c-1")),
    row("queue.earlier", "shift+up", waiting("a-1", "b-1", "c-1")),
    row("queue.begin", "b", waiting("b-1", "c-1")),
    row("queue.remove", "d", waiting("c-1")),
    row("queue.remove", "delete", waiting()),
    row("store.back", "q", at(RunsScreen), "w"),
    row("store.back", "escape", at(RunsScreen)),
]


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


def runs_there(*names: str) -> Holds:
    return lambda app: sorted(path.name for path in (app.home / "runs").iterdir()) == sorted(names)


TRASH = [
    row("trash.restore", "r", runs_there("c-1")),
    row("trash.restore", "enter", runs_there("b-1", "c-1")),
    row("trash.destroy", "d", at(Ask), "escape"),
    row("trash.destroy", "delete", at(Ask), "escape"),
    row("trash.empty", "E", at(Ask), "escape"),
]


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


CACHED = [row("cached.clean", "C", at(Ask), "escape")]


class NoPreflight:
    """Stands in for the process that measures; the real one is tested elsewhere."""

    def __init__(self, config: Any, name: str, home: Path, on_progress: Any, on_end: Any) -> None:
        self.name, self.on_end = name, on_end
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True
        self.on_end(None, "canceled")


PRESETS = [
    row("presets.edit", "e", at(EditScreen), "escape"),
    row("presets.fit", "f", at(FitDialog), "escape"),
    row("presets.size", "z", lambda app: app.screen.sizes.size_of("quickstart") == "small"),
    row("presets.needs", "w", at(NeedsDialog), "escape"),
    row("presets.preflight", "p", lambda app: app.screen.preflight.job is not None),
    row("presets.cancel-preflight", "escape", lambda app: app.screen.preflight.job is None),
    row("presets.undo", "u", lambda app: not app.screen.edited),
    row("presets.queue", "Q", lambda app: app.training.active == "quickstart-1"),
    row("presets.queue", "shift+enter", waiting("quickstart-2")),
    row("presets.start", "enter", at(Ask), "escape"),
]


@SWEEP
async def test_presets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "PreflightJob", NoPreflight)
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen: Any = app.screen
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and screen.current == "quickstart")
        await press_all(pilot, PRESETS[:3])
        screen.edited["quickstart"] = screen.config()
        await press_all(pilot, PRESETS[3:])
        app.queue.remove("quickstart-2")
        app.training.shutdown()


EDIT = [
    row("edit.next", "space", lambda app: app.screen.config != app.screen.base),
    row("edit.changed", "c", lambda app: app.screen.listing.option_count == 2, "c"),
    row("edit.reset", "d", lambda app: app.screen.config == app.screen.base),
    row("edit.filter", "slash", focus("edit-filter")),
    row("edit.back", "escape", focus("edit-fields")),
    row("edit.save", "ctrl+s", at(AskText), "escape"),
    row("edit.train", "ctrl+r", lambda app: app.training.active == "quickstart-1"),
]


@SWEEP
async def test_the_form(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("e")
        await until(pilot, lambda: at(EditScreen)(app))
        mark(app.screen, "optim.kind")
        await press_all(pilot, EDIT)
        app.training.shutdown()


def mark(form: Any, path: str) -> None:
    form.listing.highlighted = form.listing.get_option_index(path)


FORK = [
    row("fork.weights", "w", lambda app: app.screen.weights_only),
    row("edit.next", "space", lambda app: app.screen.config.optim.kind == "sgd"),
    row("fork.reset", "d", lambda app: app.screen.config.optim.kind == "adamw"),
    row("fork.queue", "Q", lambda app: (app.home / "runs" / "tiny-1-fork-1" / "run.toml").exists()),
    row("fork.train", "ctrl+r", at(Ask)),  # what becomes of the learning rate
]


@SWEEP
async def test_the_form_of_a_fork(trained_home: Path) -> None:
    app, begun = runs_app(trained_home)
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


FIT = [
    row("fit.down", "down", lambda app: app.screen.query_one("#fit-scroll").scroll_y > 0),
    row("fit.up", "up", lambda app: app.screen.query_one("#fit-scroll").scroll_y == 0),
    row("dialog.cancel", "escape", at(PresetsScreen)),
]


@SWEEP
async def test_fitting(home: Path) -> None:
    app = app_with(home)
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


DATA = [
    row("data.prepare", "enter", at(PrepareDialog), "escape"),
    row("data.add", "a", at(AskText), "escape"),
    row("data.try", "t", focus("try-text")),
    row("data.ids", "f2", lambda app: app.screen.with_ids),
    row("data.back", "escape", focus("corpus-list")),
    row("data.ids", "i", lambda app: not app.screen.with_ids),
    row("data.use", "u", at(PresetsScreen), "5"),
    row("data.forget", "d", lambda app: not any(key.startswith("added") for key in app.screen.entries)),
    row("data.cancel", "x", lambda app: app.screen.jobs.job is None),
]


@SWEEP
async def test_data(home: Path, corpus: Path) -> None:
    add_corpus(home, str(corpus))
    app = app_with(home)
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


SETTINGS = [
    row("settings.usual", "backspace", lambda app: app.theme == "workbench-dark"),
    row("settings.back", "escape", at(PresetsScreen)),
]


@SWEEP
async def test_settings(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        app.theme = "high-contrast"
        await until(pilot, lambda: app.settings.theme == "high-contrast")
        app.action_settings()
        await until(pilot, lambda: at(SettingsScreen)(app) and "theme: high-contrast" in shown(app.screen))
        await press_all(pilot, SETTINGS)


def scroll(app: Any) -> float:
    return float(app.screen.query_one("VerticalScroll").scroll_y)


HELP = [
    row("help.down", "j", lambda app: scroll(app) == 1),
    row("help.down", "down", lambda app: scroll(app) == 2),
    row("help.up", "k", lambda app: scroll(app) == 1),
    row("help.up", "up", lambda app: scroll(app) == 0),
    *(row("help.close", key, at(RunsScreen), "f1") for key in ("escape", "q", "question_mark", "f1", "enter")),
]


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
