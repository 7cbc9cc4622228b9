"""What every key of the Presets, Runs, Data and Settings screens and of their windows does.

A row is the id of a binding, the key, what holds soon afterwards, and the keys that lead back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm.run import Run
from tests.workbench.waiting import shown, was_notified
from workbench.data.dialogs import PrepareDialog
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.presets.edit_screen import EditScreen
from workbench.presets.fit_dialog import FitDialog
from workbench.presets.needs_dialog import NeedsDialog
from workbench.presets.screen import PresetsScreen
from workbench.runs.compare_dialog import CompareScreen
from workbench.runs.export_dialog import ExportDialog
from workbench.runs.fork_screen import ForkScreen
from workbench.runs.overlay_screen import OverlayScreen
from workbench.runs.screen import RunsScreen
from workbench.runs.trash_screen import TrashScreen
from workbench.train.queue_screen import QueueScreen
from workbench.ui.dialogs import Ask, AskSteps, AskText

Holds = Callable[[Any], object]
Row = tuple[str, str, Holds, tuple[str, ...]]


def row(identity: str, key: str, holds: Holds, *back: str) -> Row:
    return identity, key, holds, back


def at(kind: type) -> Holds:
    """The screen in front is of this kind."""
    return lambda app: type(app.screen) is kind


def notified(words: str) -> Holds:
    return lambda app: was_notified(app, words)


def focus(identity: str) -> Holds:
    return lambda app: app.focused is not None and app.focused.id == identity


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


def runs_there(*names: str) -> Holds:
    return lambda app: sorted(path.name for path in (app.home / "runs").iterdir()) == sorted(names)


TRASH = [
    row("trash.restore", "r", runs_there("c-1")),
    row("trash.restore", "enter", runs_there("b-1", "c-1")),
    row("trash.destroy", "d", at(Ask), "escape"),
    row("trash.destroy", "delete", at(Ask), "escape"),
    row("trash.empty", "E", at(Ask), "escape"),
]


CACHED = [row("cached.clean", "C", at(Ask), "escape")]


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


EDIT = [
    row("edit.next", "space", lambda app: app.screen.config != app.screen.base),
    row("edit.changed", "c", lambda app: app.screen.listing.option_count == 2, "c"),
    row("edit.reset", "d", lambda app: app.screen.config == app.screen.base),
    row("edit.filter", "slash", focus("edit-filter")),
    row("edit.back", "escape", focus("edit-fields")),
    row("edit.save", "ctrl+s", at(AskText), "escape"),
    row("edit.train", "ctrl+r", lambda app: app.training.active == "quickstart-1"),
]


FORK = [
    row("fork.weights", "w", lambda app: app.screen.weights_only),
    row("edit.next", "space", lambda app: app.screen.config.optim.kind == "sgd"),
    row("fork.reset", "d", lambda app: app.screen.config.optim.kind == "adamw"),
    row("fork.queue", "Q", lambda app: (app.home / "runs" / "tiny-1-fork-1" / "run.toml").exists()),
    row("fork.train", "ctrl+r", at(Ask)),  # what becomes of the learning rate
]


FIT = [
    row("fit.down", "down", lambda app: app.screen.query_one("#fit-scroll").scroll_y > 0),
    row("fit.up", "up", lambda app: app.screen.query_one("#fit-scroll").scroll_y == 0),
    row("dialog.cancel", "escape", at(PresetsScreen)),
]


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


SETTINGS = [
    row("settings.usual", "backspace", lambda app: app.theme == "workbench-dark"),
    row("settings.back", "escape", at(PresetsScreen)),
]


def scroll(app: Any) -> float:
    return float(app.screen.query_one("VerticalScroll").scroll_y)


HELP = [
    row("help.down", "j", lambda app: scroll(app) == 1),
    row("help.down", "down", lambda app: scroll(app) == 2),
    row("help.up", "k", lambda app: scroll(app) == 1),
    row("help.up", "up", lambda app: scroll(app) == 0),
    *(row("help.close", key, at(RunsScreen), "f1") for key in ("escape", "q", "question_mark", "f1", "enter")),
]
