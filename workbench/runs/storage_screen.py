"""Lists that are seldom needed: what waits in the queue, what lies in the trash, which prepared data nobody uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static
from textual.worker import get_current_worker

from llm.errors import UserError
from llm.run import Run
from workbench.data import prepared_data as cached_data
from workbench.data.prepared_data import CachedData
from workbench.formatting import format_age, format_size
from workbench.runs import trash
from workbench.runs.trash import Trashed
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask, Modal
from workbench.ui.key_line import KeyLine
from workbench.ui.tables import LiveTable, Row


class ListScreen(Modal[None]):
    """A table over the whole screen with a line that says what it is. Subclasses give `HEADINGS` and `rows`."""

    HEADINGS: ClassVar[tuple[str, ...]] = ()
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back", id="store.back", key_display="esc")]
    DEFAULT_CSS = """
    ListScreen { background: $background;
        Vertical { height: 1fr; }
        .list-note { height: auto; padding: 0 1; }
        LiveTable { height: 1fr; background: $surface; }
    }
    """

    @property
    def table(self) -> LiveTable:
        return self.query_one(LiveTable)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(classes="list-note", markup=False)
            yield LiveTable(id="list-table")
        yield KeyLine()

    def on_mount(self) -> None:
        for heading in self.HEADINGS:
            self.table.add_column(heading)
        self.table.focus()
        self.look_again()

    def look_again(self) -> None:
        """Read what is to be listed, and show it."""
        raise NotImplementedError

    def say(self, note: str) -> None:
        self.query_one(".list-note", Static).update(Content(clean(note)))

    def show(self, note: str, rows: Sequence[Row]) -> None:
        self.say(note)
        self.table.show_rows(rows)

    def back_in_screen(self, method: Callable[..., object], *arguments: object) -> None:
        """From a thread: call it in the screen's own, unless the screen was left or looks anew meanwhile."""
        if self.is_attached and not get_current_worker().is_cancelled:
            self.app.call_from_thread(method, *arguments)

    def attempt(self, change: Callable[[], object]) -> bool:
        """Do it, or say what stood in the way; in any thread."""
        try:
            change()
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
            return False
        return True


class QueueScreen(ListScreen):
    """The runs that wait for their turn."""

    NAME = "Queue"
    GUIDE = (
        "The next run begins when none of this home trains any more, as long as the workbench is open. J and K move a "
        "run back and forward, d takes it out of the queue (the run stays), b begins the first one now."
    )
    HEADINGS = ("", "run", "what it is", "steps")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K,shift+up", "shift(-1)", "Earlier", id="queue.earlier", key_display="K"),
        Binding("J,shift+down", "shift(1)", "Later", id="queue.later", key_display="J"),
        Binding("d,delete", "remove", "Take out", id="queue.remove", key_display="d"),
        Binding("b", "begin", "Begin now", id="queue.begin"),
    ]

    def look_again(self) -> None:
        names = self.workbench.queue.names()
        if not names:
            note = "Nobody waits. Q on the Presets screen or on a run here puts it in line."
        elif other := self.workbench.waits_for_other:
            note = f"The next begins when {other} has ended, which trains in another process."
        else:
            note = "The next begins when the training that goes on here has ended."
        self.show(note, [(name, self._cells(place, name)) for place, name in enumerate(names, 1)])

    def _cells(self, place: int, name: str) -> list[Text]:
        run = Run(self.workbench.home / "runs" / name)
        try:
            config, parent = run.config(), str(run.info().get("parent", ""))
        except UserError as error:
            return [Text(str(place)), Text(one_line(name)), Text(one_line(str(error))), Text("")]
        about = f"fork of {parent}" if parent else config.purpose
        return [Text(str(place)), Text(one_line(name)), Text(one_line(about)), Text(f"{config.train.steps:,}")]

    def action_shift(self, by: int) -> None:
        name = self.table.current
        self.attempt(lambda: self.workbench.queue.move(name, by))
        self.look_again()
        self.table.select_key(name)

    def action_remove(self) -> None:
        """Out of the line; the run itself stays."""
        self.attempt(lambda: self.workbench.queue.remove(self.table.current))
        self.look_again()

    def action_begin(self) -> None:
        """Do not wait: begin the first one, in a process of its own if another trains here."""
        self.workbench.begin_next()
        self.look_again()


class TrashScreen(ListScreen):
    """Deleted runs."""

    NAME = "Trash"
    GUIDE = "Deleted runs lie here until the trash is emptied. r brings one back, d destroys one, E all of them."
    HEADINGS = ("run", "size", "deleted")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,enter", "restore", "Bring back", id="trash.restore", key_display="r"),
        Binding("d,delete", "destroy", "Destroy", id="trash.destroy", key_display="d"),
        Binding("E", "empty", "Empty", id="trash.empty"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Trashed] = []

    def look_again(self) -> None:
        self.say("looking how much lies there…")
        self._look(self.workbench.home)

    @work(thread=True, exclusive=True, group="look into the trash")
    def _look(self, home: Path) -> None:
        self.back_in_screen(self._take, trash.list_trash(home))

    def _take(self, items: list[Trashed]) -> None:
        self.items = items
        total = format_size(sum(item.size_bytes for item in self.items))
        now = time.time()
        rows = [
            (
                item.path.name,
                [Text(one_line(item.name)), Text(format_size(item.size_bytes)), Text(format_age(now - item.deleted))],
            )
            for item in self.items
        ]
        self.show(
            f"In the trash: {len(rows)} run{'s' * (len(rows) != 1)}, {total}." if rows else "The trash is empty.", rows
        )

    @property
    def current(self) -> list[Trashed]:
        return [item for item in self.items if item.path.name == self.table.current]

    def on_data_table_row_selected(self) -> None:
        self.action_restore()

    def action_restore(self) -> None:
        """Bring the marked run back."""
        for item in self.current:
            if self.attempt(lambda item=item: self._restore(item)):  # type: ignore[misc]
                self._without([item])
                self.look_again()

    def _without(self, gone: list[Trashed]) -> None:
        """Show at once that some are gone, or going: looking again takes its time."""
        self._take([item for item in self.items if item not in gone])

    def _restore(self, item: Trashed) -> None:
        run = trash.restore(self.workbench.home, item)
        self.notify(f"{run.name} is back", markup=False)

    def action_destroy(self) -> None:
        self._destroy(self.current)

    def action_empty(self) -> None:
        self._destroy(self.items)

    @work
    async def _destroy(self, items: list[Trashed]) -> None:
        """Delete for good, once that was agreed to."""
        if not items:
            return
        question = trash.loss_of_emptying(items, format_size(sum(item.size_bytes for item in items)))
        answers = (Answer("keep", "Keep them"), Answer("destroy", "Destroy them"))
        if await self.app.push_screen_wait(Ask(question, answers)) == "destroy":
            self._without(items)
            self.say("destroying…")
            self._empty(items)

    @work(thread=True, group="empty the trash")
    def _empty(self, items: list[Trashed]) -> None:
        self.attempt(lambda: trash.empty(items))
        self.back_in_screen(self.look_again)


class CachedDataScreen(ListScreen):
    """Prepared data and who uses them."""

    NAME = "Prepared data"
    GUIDE = (
        "Text that was tokenised for a run is kept, and shared by all runs that need the same. C takes away what no "
        "run uses, neither here nor in the trash; it is made again when a run needs it."
    )
    HEADINGS = ("corpus", "size", "used by", "data")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("C", "clean", "Take away the unused", id="cached.clean")]

    def __init__(self) -> None:
        super().__init__()
        self.cached: list[CachedData] = []

    def look_again(self) -> None:
        self.say("looking which run uses what…")
        self._look(self.workbench.home)

    @work(thread=True, exclusive=True, group="cached data")
    def _look(self, home: Path) -> None:
        self.back_in_screen(self._take, cached_data.list_cached(home))

    def _take(self, cached: list[CachedData]) -> None:
        self.cached = cached
        idle = cached_data.unused(cached)
        note = f"{counted(cached)}, {format_size(sum(data.size_bytes for data in cached))}; "
        note += (
            f"used by no run: {len(idle)}, {format_size(sum(data.size_bytes for data in idle))}."
            if idle
            else "all are used."
        )
        note = note if cached else "No data have been prepared yet."
        self.show(note, [(data.fingerprint, self._cells(data)) for data in cached])

    def _cells(self, data: CachedData) -> list[Text]:
        users = one_line(", ".join(data.used_by)) if data.used_by else "no run"
        style = "" if data.used_by else "yellow"
        return [
            Text(one_line(data.corpus)),
            Text(format_size(data.size_bytes)),
            Text(users, style=style),
            Text(data.fingerprint),
        ]

    @work
    async def action_clean(self) -> None:
        """Take away what no run uses; asks first."""
        idle = cached_data.unused(self.cached)
        if not idle:
            self.notify("There is nothing to take away: no prepared data are without a run.", markup=False)
            return
        total = format_size(sum(data.size_bytes for data in idle))
        corpora = ", ".join(sorted({data.corpus for data in idle}))
        question = f"This frees {total}: {counted(idle)} that no run uses ({clean(corpora)}). "
        question += "What is taken away is made again when a run needs it."
        answers = (Answer("keep", "Keep them"), Answer("clean", "Take them away"))
        if await self.app.push_screen_wait(Ask(question, answers)) == "clean":
            self.say("taking them away…")
            self._clean(idle)

    @work(thread=True, group="clean data")
    def _clean(self, idle: list[CachedData]) -> None:
        self.attempt(lambda: cached_data.clean(idle))
        self.back_in_screen(self.look_again)


def counted(cached: Sequence[CachedData]) -> str:
    return "1 prepared data set" if len(cached) == 1 else f"{len(cached)} prepared data sets"
