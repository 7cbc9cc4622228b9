"""All runs in a table, with the checkpoints of the one under the cursor, and what can be done with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from workbench.screens.base import WorkbenchScreen
from workbench.screens.run_rows import HEADINGS, checkpoint_cells, details_of, run_cells
from workbench.services.runs import (
    SORTS,
    RunCatalogue,
    RunSummary,
    Verification,
    chosen,
    delete_checkpoint,
    loss_of_deleting,
    pin,
    rename,
    verified,
)
from workbench.services.trash import move_to_trash
from workbench.text import clean
from workbench.widgets.axes import size
from workbench.widgets.dialogs import Answer, Ask, AskText
from workbench.widgets.tables import LiveTable

REFRESH_SECONDS = 1.5


class RunsScreen(WorkbenchScreen):
    """Browse, resume, delete; from here to the curves and to the chat."""

    GUIDE = (
        "Every run below the home directory. The lower table lists the checkpoints of the run under the cursor: "
        "Enter on a run goes there, Enter on a checkpoint opens a chat with it. "
        "Bits per byte compare across tokenizers; losses do not."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "chat", "Chat", id="runs.chat"),
        Binding("t", "curves", "Curves", id="runs.curves"),
        Binding("r", "resume", "Resume", id="runs.resume"),
        Binding("p", "pin", "Pin", id="runs.pin"),
        Binding("v", "verify", "Verify", id="runs.verify"),
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("S", "reverse", "Reverse the order", id="runs.reverse", show=False),
        Binding("n", "notes", "Notes", id="runs.notes"),
        Binding("R", "rename", "Rename", id="runs.rename", show=False),
        Binding("y", "copy_path", "Copy path", id="runs.copy-path"),
        Binding("d,delete", "delete", "Delete", id="runs.delete", key_display="d"),
        Binding("escape", "back", "Back", id="runs.back", show=False),
    ]
    DEFAULT_CSS = """
    RunsScreen {
        #runs-filter { display: none; height: 3; }
        #runs-filter.open { display: block; }
        #runs-list { height: 3fr; min-height: 5; }
        #runs-empty { display: none; height: 3fr; content-align: center middle; color: $text-muted; }
        &.empty #runs-empty { display: block; }
        &.empty #runs-list, &.empty #run-lower { display: none; }
        #run-lower { height: 2fr; min-height: 6; }
        #run-checkpoints { width: 3fr; border-top: solid $panel-lighten-2; border-title-color: $text; }
        #run-checkpoints:focus { border-top: solid $primary; }
        &.-narrow #run-details-scroll { width: 24; }
        #run-details-scroll { width: 2fr; border-top: solid $panel-lighten-2; padding: 0 1; }
        LiveTable { background: $surface; }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.catalogue: RunCatalogue | None = None
        self.summaries: list[RunSummary] = []
        self.checkpoints: list[CheckpointInfo] = []
        self.listed_run = ""
        self.sort_by = "age"
        self.reversed = False
        self.verifications: dict[str, Verification | None] = {}  # by checkpoint path; None while it is being read
        self._refreshing = False

    def body(self) -> ComposeResult:
        yield Input(placeholder="words in the name, status, corpus, notes or tags", id="runs-filter")
        yield Static("No runs yet: press 1, choose a preset, and press Enter to train it.", id="runs-empty")
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
        self._head_table()
        for heading in ("step", "loss", "val", "bits/B", "kept as", "size", "checked"):
            self.checkpoint_table.add_column(heading)
        self.runs_table.focus()
        self.set_interval(REFRESH_SECONDS, self.look_again)
        self.look_again()

    def on_screen_resume(self) -> None:
        self.look_again()

    # --- what is shown

    def look_again(self) -> None:
        """Read the runs again, in a thread; nothing while another screen is in front."""
        if self.is_current and not self._refreshing and self.catalogue is not None:
            self._refreshing = True
            self._refresh(self.catalogue)

    @work(thread=True, group="runs-refresh")
    def _refresh(self, catalogue: RunCatalogue) -> None:
        try:
            summaries = catalogue.refresh()
        finally:
            self._refreshing = False
        self.app.call_from_thread(self._take, summaries)

    def _take(self, summaries: list[RunSummary]) -> None:
        self.summaries = summaries
        self.show_runs()
        self.list_checkpoints()

    def show_runs(self) -> None:
        """Fill the table from what is known, filtered and ordered."""
        self.set_class(not self.summaries, "empty")
        text = self.query_one("#runs-filter", Input).value
        rows = chosen(self.summaries, text, self.sort_by, self.reversed)
        self.runs_table.show_rows([(row.name, run_cells(row, time.time())) for row in rows])
        self._show_details()

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
        rows = [(str(info.step), checkpoint_cells(info, self._check_text(info))) for info in reversed(self.checkpoints)]
        table.show_rows(rows)
        if changed_run and rows:
            table.move_cursor(row=0)

    def _check_text(self, info: CheckpointInfo) -> Text:
        key = str(info.path)
        if key not in self.verifications:
            return Text("—", style="dim")
        found = self.verifications[key]
        if found is None:
            return Text("reading…")
        return Text("whole", style="green") if found.verdict == "whole" else Text("damaged", style="red")

    def _show_details(self) -> None:
        summary = self.current
        self.query_one("#run-details", Static).update(details_of(summary, time.time()) if summary else Content(""))

    def _head_table(self) -> None:
        table = self.runs_table
        if not table.columns:
            for key in HEADINGS:
                table.add_column(HEADINGS[key], key=key)
        for column in table.columns.values():
            name = str(column.key.value)
            column.label = Text(HEADINGS[name] + (" " + "▼▲"[self.reversed] if name == self.sort_by else ""))
        table.refresh()

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
        self._head_table()
        self.show_runs()

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
            self._say(f"{summary.name} has no checkpoint to talk to; resume it until its first save.")

    def action_curves(self) -> None:
        """Open the curves of the run on the Train screen."""
        if (summary := self.current) is not None:
            self.workbench.open_train(summary.name)

    @work
    async def action_resume(self) -> None:
        """Go on training the run from its newest checkpoint; a finished run is asked how much longer."""
        summary = self.current
        if summary is None:
            return
        overrides: tuple[tuple[str, str], ...] = ()
        if summary.status == "finished":
            question = f"{summary.name} has done all its {summary.total_steps:,} steps. Train it to which step?"
            answer = await self.app.push_screen_wait(
                AskText(question, value=str(summary.total_steps * 2), problem_of=_more_than(summary.step))
            )
            if not answer:
                return
            overrides = (("train.steps", str(int(answer))),)
        try:
            here = self.workbench.training.begin(Run(summary.path), overrides)
        except UserError as error:
            self._say(str(error))
            return
        if not here:
            self.notify(f"{summary.name} trains in a process of its own.", markup=False)
        self.workbench.open_train(summary.name)

    # --- changing something

    def action_pin(self) -> None:
        """Keep the checkpoint under the cursor for good, or let it be pruned again."""
        summary, info = self.current, self.current_checkpoint
        if summary is None or info is None:
            return
        self._try(lambda: pin(Run(summary.path), info.step))
        self.list_checkpoints()

    def action_verify(self) -> None:
        """Read every byte of the checkpoints and compare with their checksums: of one, or of all of the run."""
        one = self.current_checkpoint if self.checkpoint_table.has_focus else None
        infos = [one] if one is not None else self.checkpoints
        for info in infos:
            self.verifications[str(info.path)] = None
        self.list_checkpoints()
        self._verify(list(infos))

    @work(thread=True, group="runs-verify")
    def _verify(self, infos: Sequence[CheckpointInfo]) -> None:
        for info in infos:
            self.verifications[str(info.path)] = verified(info)
            self.app.call_from_thread(self._verified, info)

    def _verified(self, info: CheckpointInfo) -> None:
        found = self.verifications[str(info.path)]
        if found is not None and found.problem:
            self._say(found.problem)
        self.list_checkpoints()

    @work
    async def action_notes(self) -> None:
        """Write a line about the run."""
        summary = self.current
        if summary is None:
            return
        question = f"Notes on {summary.name} (a single hyphen clears them)"
        answer = await self.app.push_screen_wait(AskText(question, value=summary.notes))
        if answer:
            self._try(lambda: Run(summary.path).update_meta(notes="" if answer == "-" else answer))
            self.look_again()

    @work
    async def action_rename(self) -> None:
        """Give the run another name."""
        summary = self.current
        if summary is None:
            return
        answer = await self.app.push_screen_wait(AskText(f"Rename {summary.name} to", value=summary.name))
        if answer and answer != summary.name:
            self._try(lambda: rename(Run(summary.path), answer))
            self.look_again()

    @work
    async def action_delete(self) -> None:
        """Delete the checkpoint under the cursor or, from the upper table, the whole run; asks first."""
        summary, info = self.current, self.current_checkpoint
        if summary is None:
            return
        if summary.is_running:
            self._say(f"{summary.name} is in training; stop it before deleting anything of it.")
        elif self.checkpoint_table.has_focus and info is not None:
            rest = "it is the only one" if len(self.checkpoints) == 1 else f"{len(self.checkpoints) - 1} others remain"
            question = f"Deleting checkpoint {info.step} of {summary.name} frees {size(info.size_bytes)}; {rest}."
            if await self._confirmed(question):
                self._try(lambda: delete_checkpoint(Run(summary.path), info))
                self.list_checkpoints()
        elif await self._confirmed(loss_of_deleting(summary, self.checkpoints, size(summary.size_bytes))):
            self._try(lambda: move_to_trash(self.workbench.home, Run(summary.path)))
            self.look_again()

    async def _confirmed(self, question: str) -> bool:
        answers = (Answer("keep", "Keep it"), Answer("delete", "Delete it"))
        return await self.app.push_screen_wait(Ask(question, answers)) == "delete"

    def action_copy_path(self) -> None:
        """Put the path of the run, or of the checkpoint, on the clipboard of the terminal."""
        summary, info = self.current, self.current_checkpoint
        if summary is None:
            return
        path = info.path if self.checkpoint_table.has_focus and info is not None else summary.path
        self.app.copy_to_clipboard(str(path))
        self.notify(f"copied {path}", markup=False)

    def _try(self, change: Callable[[], object]) -> None:
        """Do it, and say what stood in the way."""
        try:
            change()
        except UserError as error:
            self._say(str(error))
        except OSError as error:
            self._say(f"{error.filename or 'the file'} could not be changed ({error.strerror}).")

    def _say(self, problem: str) -> None:
        self.notify(clean(problem), severity="error", markup=False)


def _more_than(step: int) -> Callable[[str], str]:
    def problem_of(text: str) -> str:
        return "" if text.isdecimal() and int(text) > step else f"a whole number above {step}"

    return problem_of
