"""All runs in a table, with the checkpoints of the one under the cursor, and what can be done with them."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from workbench.runs.actions import TOLD_EVERY_SECONDS, RunActions
from workbench.runs.catalog import SORTS, RunCatalogue, chosen
from workbench.runs.lineage import as_tree
from workbench.runs.rows import RunRows, checkpoint_cells, checkpoint_table, details_of
from workbench.runs.summaries import RunSummary
from workbench.ui.tables import BAR, LiveTable

REFRESH_SECONDS = 1.5
MOST_REST_SECONDS = 6.0
NONE_YET = "No runs yet: press 1, choose a preset, and press Enter to train it."


class RunsScreen(RunActions):
    """Browse, mark, compare; from here to the curves and to the chat. What changes a run is in `RunActions`."""

    GUIDE = (
        "The second table lists the checkpoints of the run under the cursor. Bits per byte compare across tokenizers; "
        "losses do not. Space marks runs: o lays the curves of the marked ones over each other, = compares the "
        "configurations of two. f makes a new run that begins with a checkpoint."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "runs-list": (
            "The runs below the home directory, each with its newest figures. Enter goes to its checkpoints; r goes on "
            "training it, t shows its curves, c talks to it."
        ),
        "run-checkpoints": (
            "The checkpoints of the marked run. Enter talks to the marked one, f forks it, p keeps it for good, "
            "v reads every byte of it and compares with its checksums, d deletes it."
        ),
        "runs-filter": "Words that must all be in name, status, corpus, notes or tags. Enter keeps, Esc clears them.",
    }
    AUTO_FOCUS = "LiveTable"  # never the filter, which would swallow the keys unseen
    # The most wanted keys first: what does not fit into the line of keys is left out there.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "resume", "Resume", id="runs.resume"),
        Binding("f", "fork", "Fork", id="runs.fork"),
        Binding("c", "chat", "Chat", id="runs.chat"),
        Binding("t", "curves", "Curves", id="runs.curves"),
        Binding("space", "mark", "Mark", id="runs.mark", key_display="␣"),
        Binding("o", "overlay", "Overlay", id="runs.overlay"),
        Binding("equals_sign", "compare", "Compare", id="runs.compare", key_display="="),
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("d,delete", "delete", "Delete", id="runs.delete", key_display="d"),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("S", "reverse", "Reverse", id="runs.reverse"),
        Binding("l", "lineage", "Tree", id="runs.lineage"),
        Binding("Q", "enqueue", "Queue", id="runs.queue"),
        Binding("v", "verify", "Verify", id="runs.verify"),
        Binding("p", "pin", "Pin", id="runs.pin"),
        Binding("n", "notes", "Notes", id="runs.notes"),
        Binding("T", "tags", "Tags", id="runs.tags"),
        Binding("R", "rename", "Rename", id="runs.rename"),
        Binding("e", "export", "Export CSV", id="runs.export"),
        Binding("y", "copy_path", "Copy path", id="runs.copy-path"),
        Binding("w", "waiting", "Waiting runs", id="runs.waiting"),
        Binding("x", "trash", "Trash", id="runs.trash"),
        Binding("D", "cached_data", "Prepared data", id="runs.data"),
        Binding("escape", "back", "Back", id="runs.back", show=False),
    ]
    DEFAULT_CSS = """
    RunsScreen {
        #runs-filter { display: none; height: 3; }
        #runs-filter.open { display: block; }
        #runs-list { height: 3fr; min-height: 5; }
        #runs-empty { display: none; height: 3fr; content-align: center middle; color: $text-muted; }
        &.empty #runs-empty { display: block; }
        &.empty #runs-body { display: none; }
        #runs-body { height: 1fr; }
        #run-lower { height: 2fr; min-height: 6; }
        #run-checkpoints { width: 3fr; border-top: solid $panel-lighten-2; border-title-color: $text; }
        #run-checkpoints:focus { border-top: solid $primary; }
        &.-narrow #run-details-scroll { width: 22; }
        #run-details-scroll { width: 2fr; border-top: solid $panel-lighten-2; padding: 0 1; }
        LiveTable { background: $surface; }
        &.-beside {
            #runs-body { layout: horizontal; }
            #runs-list { width: 1fr; height: 1fr; }
            #run-lower { layout: vertical; width: 66; height: 1fr; border-left: solid $panel-lighten-2; }
            #run-checkpoints, #run-details-scroll { width: 1fr; height: 1fr; }
        }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.catalogue: RunCatalogue | None = None
        self.summaries: list[RunSummary] = []
        self.marked: list[str] = []
        """The names of the marked runs, in the order they were marked."""
        self.as_tree = False
        self._rows = RunRows()
        self._widths: dict[str, int] = {}
        self.sort_by = "age"
        self.reversed = False
        self._looked = False
        """Whether it is known by now which runs there are."""
        self._refreshing = False
        self._rest_until = 0.0

    def body(self) -> ComposeResult:
        yield Input(placeholder="words in the name, status, corpus, notes or tags", id="runs-filter")
        yield Static(NONE_YET, id="runs-empty")
        with Vertical(id="runs-body"):
            yield LiveTable(id="runs-list")
            with Horizontal(id="run-lower"):
                yield LiveTable(id="run-checkpoints")
                with VerticalScroll(id="run-details-scroll", can_focus=False), Vertical():
                    yield Static(id="run-details", markup=False)

    @property
    def runs_table(self) -> LiveTable:
        return self.query_one("#runs-list", LiveTable)

    @property
    def checkpoint_table(self) -> LiveTable:
        return self.query_one("#run-checkpoints", LiveTable)

    def on_mount(self) -> None:
        self.catalogue = RunCatalogue(self.workbench.home)
        self.runs_table.focus()
        self.set_interval(REFRESH_SECONDS, self._look_regularly)
        self.look_again()

    def on_screen_resume(self) -> None:
        self.look_again()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_again)  # only then is it known how wide the tables are

    def _show_again(self) -> None:
        self.show_runs()
        self.list_checkpoints()

    # --- what is shown

    def _look_regularly(self) -> None:
        """Look again, unless looking would take more than a tenth of the time; reading many runs for the first time,
        which takes long, is no reason to wait for long."""
        if time.monotonic() >= self._rest_until:
            self.look_again()

    def look_again(self) -> None:
        """Read the runs again, in a thread; nothing while another screen is in front."""
        if self.is_current and not self._refreshing and self.catalogue is not None:
            self._refreshing = True
            self._refresh(self.catalogue)

    @work(thread=True, group="runs-refresh")
    def _refresh(self, catalogue: RunCatalogue) -> None:
        began = told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                told = time.monotonic()
                self.app.call_from_thread(self._say_reading, done, total)

        try:
            summaries = catalogue.refresh(progress)
        finally:
            self._rest_until = time.monotonic() + min(9 * (time.monotonic() - began), MOST_REST_SECONDS)
            self._refreshing = False
        self.app.call_from_thread(self._take, summaries)

    def _say_reading(self, done: int, total: int) -> None:
        """Many runs are being read for the first time."""
        if not self.summaries:
            self.add_class("empty")
            self.query_one("#runs-empty", Static).update(f"reading {total:,} runs: {done / total:.0%}")

    def _take(self, summaries: list[RunSummary]) -> None:
        self.summaries, self._looked = summaries, True
        names = {row.name for row in summaries}
        self.marked = [name for name in self.marked if name in names]
        self._rows.forget_all_but(names)
        self._show_again()

    def show_runs(self) -> None:
        """Fill the table from what is known, filtered and ordered."""
        was_empty = self.has_class("empty")
        if self._looked:
            self.set_class(not self.summaries, "empty")
            self.query_one("#runs-empty", Static).update(NONE_YET)
        if was_empty and self.summaries:
            self.call_after_refresh(self._focus_the_list)  # a table that is not shown has no focus
        text = self.query_one("#runs-filter", Input).value
        rows = chosen(self.summaries, text, self.sort_by, self.reversed)
        branches = as_tree(rows) if self.as_tree else [(row, "") for row in rows]
        lines, headings = self._rows.table(
            branches,
            self.marked,
            time.time(),
            room=(self.runs_table.outer_size.width or self.size.width) - BAR,
            sort_by=self.sort_by,
            backwards=self.reversed,
        )
        self._widths = {heading.key: heading.width for heading in headings}
        self.runs_table.show_rows(lines, headings)
        self._show_details()

    def _focus_the_list(self) -> None:
        if not isinstance(self.focused, Input):
            self.runs_table.focus()

    @property
    def current(self) -> RunSummary | None:
        """The run under the cursor."""
        name = self.runs_table.current
        return next((row for row in self.summaries if row.name == name), None)

    @property
    def current_checkpoint(self) -> CheckpointInfo | None:
        """The checkpoint under the cursor, if the run has any."""
        key = self.checkpoint_table.current
        return next((info for info in self.checkpoints if str(info.step) == key), None)

    @on(LiveTable.RowHighlighted, "#runs-list")
    def _moved(self) -> None:
        self.list_checkpoints()
        self._show_details()

    def list_checkpoints(self) -> None:
        """Show the checkpoints of the run under the cursor."""
        summary = self.current
        try:
            self.checkpoints = Run(summary.path).checkpoints() if summary else []
        except (UserError, OSError):
            self.checkpoints = []
        changed_run = summary is None or summary.name != self.listed_run
        self.listed_run = summary.name if summary else ""
        table = self.checkpoint_table
        table.border_title = Content(f"checkpoints of {self.listed_run}" if self.listed_run else "checkpoints").markup
        rows = [(str(info.step), checkpoint_cells(info, self.check_text(info))) for info in reversed(self.checkpoints)]
        table.show_rows(*checkpoint_table(rows, table.outer_size.width - BAR))
        if changed_run and rows:
            table.move_cursor(row=0)

    def _show_details(self) -> None:
        summary = self.current
        text = details_of(summary, time.time(), self._widths) if summary else Content("")
        self.query_one("#run-details", Static).update(text)

    # --- finding

    def action_filter(self) -> None:
        """Type words that must all be there."""
        field = self.query_one("#runs-filter", Input)
        field.add_class("open")
        field.focus()

    @on(Input.Changed, "#runs-filter")
    def _filter_typed(self) -> None:
        self.show_runs()

    @on(Input.Submitted, "#runs-filter")
    def _filter_done(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "open")
        self.runs_table.focus()

    def action_back(self) -> None:
        """One layer out: from the checkpoints to the runs, then the filter goes."""
        field = self.query_one("#runs-filter", Input)
        if self.checkpoint_table.has_focus:
            self.runs_table.focus()
            return
        field.value = ""
        field.remove_class("open")
        self.runs_table.focus()

    def action_sort(self) -> None:
        """Order by the next column."""
        self._sort(SORTS[(SORTS.index(self.sort_by) + 1) % len(SORTS)], False)

    def action_reverse(self) -> None:
        self._sort(self.sort_by, not self.reversed)

    @on(LiveTable.HeaderSelected, "#runs-list")
    def _heading_clicked(self, event: LiveTable.HeaderSelected) -> None:
        column = str(event.column_key.value)
        self._sort(column, column == self.sort_by and not self.reversed)

    def _sort(self, column: str, reverse: bool) -> None:
        self.sort_by, self.reversed = column, reverse
        self.show_runs()

    def action_lineage(self) -> None:
        """Every fork below its parent, or one list."""
        self.as_tree = not self.as_tree
        self.show_runs()

    # --- several at once

    def action_mark(self) -> None:
        """Mark the run under the cursor for comparing, or take the mark away; then on to the next."""
        name = self.runs_table.current
        if name in self.marked:
            self.marked.remove(name)
        elif name:
            self.marked.append(name)
        self.show_runs()
        self.runs_table.action_cursor_down()

    def action_overlay(self) -> None:
        """The curves of the marked runs on one set of axes; of the one under the cursor where none is marked."""
        from workbench.runs.overlay_screen import MOST, OverlayScreen

        names = self.marked or [self.runs_table.current]
        runs = [Run(row.path) for name in names for row in self.summaries if row.name == name]
        if len(runs) > MOST:
            self.notify(f"the first {MOST} of {len(runs)} marked runs are shown", markup=False)
        if runs:
            self.app.push_screen(OverlayScreen(runs))

    def action_compare(self) -> None:
        """The configurations of two runs: the two marked last, or the marked one and the one under the cursor."""
        from workbench.runs.compare_dialog import CompareScreen

        current = self.runs_table.current
        names = self.marked[-2:] if len(self.marked) > 1 else [*(n for n in self.marked if n != current), current]
        rows = [row for name in names for row in self.summaries if row.name == name]
        if len(rows) < 2:
            self.notify("Mark a run with space, go to another, and press = to compare the two.", markup=False)
            return
        try:
            configs = (Run(rows[0].path).config(), Run(rows[1].path).config())
        except UserError as error:
            self.say(str(error))
            return
        self.app.push_screen(CompareScreen(rows[0], rows[1], configs))

    # --- going elsewhere

    @on(LiveTable.RowSelected, "#runs-list")
    def _opened(self) -> None:
        if self.checkpoints:
            self.checkpoint_table.focus()
        else:
            self.notify("This run has no checkpoint yet.", markup=False)

    @on(LiveTable.RowSelected, "#run-checkpoints")
    def _checkpoint_opened(self) -> None:
        self.action_chat()

    def action_chat(self) -> None:
        """Talk to the checkpoint under the cursor, or to the run's newest; a run in training is talked to live."""
        summary = self.current
        if summary is None:
            return
        chosen_one = self.current_checkpoint if self.checkpoint_table.has_focus else None
        if chosen_one is not None:
            self.workbench.open_chat(f"{summary.name}@{chosen_one.step}")
        elif summary.is_running:
            self.workbench.open_chat(f"{summary.name}@live")
        elif self.checkpoints:
            self.workbench.open_chat(summary.name)
        else:
            self.say(f"{summary.name} has no checkpoint to talk to; resume it until its first save.")

    def action_curves(self) -> None:
        """Open the curves of the run on the Train screen."""
        if (summary := self.current) is not None:
            self.workbench.open_train(summary.name)
