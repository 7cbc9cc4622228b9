"""The Runs screen: a table of all runs, the checkpoints of the selected one, and what can be done with them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from workbench.runs.actions import RunActions
from workbench.runs.checkpoint_table import CheckpointTable
from workbench.runs.keys import RUNS_KEYS
from workbench.runs.loader import RunLoader
from workbench.runs.operations import pin
from workbench.runs.rows import details_of
from workbench.runs.run_table import RunTable
from workbench.runs.summaries import RunSummary
from workbench.ui.notices import attempt, notify_error
from workbench.ui.screen import WorkbenchScreen
from workbench.ui.tables import LiveTable


class RunsScreen(WorkbenchScreen):
    """Browse, mark and compare runs; open their curves or a chat. `RunActions` does what changes a run."""

    GUIDE = (
        "The second table lists the checkpoints of the selected run. Compare runs with different tokenizers by bits "
        "per byte, not by loss. Space marks runs: o overlays the curves of the marked runs, = compares two "
        "configurations. f forks: a new run starts from a checkpoint. F fine-tunes a checkpoint (SFT, DPO, GRPO, LoRA)."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "runs-list": (
            "All runs with their latest figures. Enter goes to the checkpoints; r resumes training, t shows the "
            "curves, c opens a chat."
        ),
        "run-checkpoints": (
            "The checkpoints of the selected run. Enter opens a chat with one, f forks it, p pins it so that it is "
            "never deleted automatically, v verifies its checksums, d deletes it."
        ),
        "runs-filter": "Words in the name, status, corpus, notes or tags. Enter keeps the filter, Esc clears it.",
    }
    AUTO_FOCUS = "LiveTable"  # not the filter: it is hidden, and would take every key
    BINDINGS: ClassVar[list[BindingType]] = RUNS_KEYS
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
        &.-columns {
            #runs-body { layout: horizontal; }
            #runs-list { width: 1fr; height: 1fr; }
            #run-lower { layout: vertical; width: 66; height: 1fr; border-left: solid $panel-lighten-2; }
            #run-checkpoints, #run-details-scroll { width: 1fr; height: 1fr; }
        }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.actions = RunActions(self)
        self.loader = RunLoader(id="runs-empty")

    def body(self) -> ComposeResult:
        yield Input(placeholder="Words in the name, status, corpus, notes or tags", id="runs-filter")
        yield self.loader
        with Vertical(id="runs-body"):
            yield RunTable(id="runs-list")
            with Horizontal(id="run-lower"):
                yield CheckpointTable(id="run-checkpoints")
                with VerticalScroll(id="run-details-scroll", can_focus=False), Vertical():
                    yield Static(id="run-details", markup=False)

    @property
    def runs_table(self) -> RunTable:
        return self.query_one(RunTable)

    @property
    def checkpoint_table(self) -> CheckpointTable:
        return self.query_one(CheckpointTable)

    def on_mount(self) -> None:
        self.runs_table.focus()

    def on_screen_resume(self) -> None:
        self.reload()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_all)  # the widths of the tables are known after layout

    def _show_all(self) -> None:
        self.runs_table.show_runs()
        self.list_checkpoints()

    # --- the tables

    def reload(self) -> None:
        """Read the runs again, in a thread."""
        self.loader.read()

    def on_run_loader_loaded(self, message: RunLoader.Loaded) -> None:
        was_empty = not self.runs_table.summaries
        self.runs_table.set_runs(message.summaries)
        if was_empty and message.summaries:
            self.call_after_refresh(self._focus_table)  # a hidden table cannot take the focus
        self.list_checkpoints()

    def _focus_table(self) -> None:
        if not isinstance(self.focused, Input):
            self.runs_table.focus()

    @property
    def current(self) -> RunSummary | None:
        """The run under the cursor."""
        return self.runs_table.selected

    @property
    def selected_run(self) -> Run | None:
        return Run(self.current.path) if self.current else None

    @property
    def selected_checkpoint(self) -> CheckpointInfo | None:
        """The checkpoint under the cursor while its table has the focus."""
        return self.checkpoint_table.selected if self.checkpoint_table.has_focus else None

    def _report_damage(self) -> bool:
        """Report the damage of the selected checkpoint; False if it is intact."""
        damage = self.checkpoint_table.selected_damage if self.checkpoint_table.has_focus else ""
        if damage:
            notify_error(self.app, damage)
        return bool(damage)

    @on(LiveTable.RowHighlighted, "#runs-list")
    def list_checkpoints(self) -> None:
        """Show the checkpoints and the details of the run under the cursor."""
        self.checkpoint_table.list_run(self.selected_run)
        summary, damaged = self.current, self.checkpoint_table.damaged
        text = details_of(summary, time.time(), self.runs_table.widths, damaged) if summary else Content("")
        self.query_one("#run-details", Static).update(text)

    # --- filtering and sorting

    def action_filter(self) -> None:
        """Type words to filter by."""
        field = self.query_one("#runs-filter", Input)
        field.add_class("open")
        field.focus()

    @on(Input.Changed, "#runs-filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        self.runs_table.set_filter(event.value)

    @on(Input.Submitted, "#runs-filter")
    def _filter_done(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "open")
        self.runs_table.focus()

    def action_back(self) -> None:
        """From the checkpoints to the runs; from the runs, clear the filter."""
        field = self.query_one("#runs-filter", Input)
        if self.checkpoint_table.has_focus:
            self.runs_table.focus()
            return
        field.value = ""
        field.remove_class("open")
        self.runs_table.focus()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.runs_table.sort_by_next()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self.runs_table.sort_runs(self.runs_table.sort_by, reverse=not self.runs_table.reversed)

    @on(LiveTable.HeaderSelected, "#runs-list")
    def _heading_clicked(self, event: LiveTable.HeaderSelected) -> None:
        column, table = str(event.column_key.value), self.runs_table
        table.sort_runs(column, reverse=column == table.sort_by and not table.reversed)

    def action_lineage(self) -> None:
        """Show forks below their parents, or a plain list."""
        self.runs_table.toggle_tree()

    # --- several at once

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and go to the next one."""
        self.runs_table.toggle_mark()

    def action_overlay(self) -> None:
        """Overlay the curves of the marked runs, or show those of the run under the cursor."""
        from workbench.runs.overlay_screen import MAX_RUNS, OverlayScreen

        table = self.runs_table
        runs = [Run(row.path) for row in table.named(table.marked or [table.current])]
        if len(runs) > MAX_RUNS:
            self.notify(f"Only the first {MAX_RUNS} of {len(runs)} marked runs are shown.", markup=False)
        if runs:
            self.app.push_screen(OverlayScreen(runs))

    def action_compare(self) -> None:
        """Compare two runs: the last two marked, or the marked one and the one under the cursor."""
        from workbench.runs.compare_dialog import CompareScreen

        table = self.runs_table
        others = [name for name in table.marked if name != table.current]
        rows = table.named(table.marked[-2:] if len(table.marked) > 1 else [*others, table.current])
        if len(rows) < 2:
            self.notify("Mark a run with space, select another, then press = to compare the two.", markup=False)
            return
        try:
            configs = (Run(rows[0].path).config(), Run(rows[1].path).config())
        except UserError as error:
            notify_error(self.app, error)
            return
        self.app.push_screen(CompareScreen(rows[0], rows[1], configs))

    # --- other screens

    @on(LiveTable.RowSelected, "#runs-list")
    def _run_selected(self) -> None:
        if self.checkpoint_table.keys:
            self.checkpoint_table.focus()
        else:
            self.notify("This run has no checkpoint yet.", markup=False)

    @on(LiveTable.RowSelected, "#run-checkpoints")
    def _checkpoint_selected(self) -> None:
        self.action_chat()

    def action_chat(self) -> None:
        """Chat with the selected checkpoint, else with the model in training, else with the newest checkpoint."""
        summary, checkpoint = self.current, self.selected_checkpoint
        if summary is None or self._report_damage():
            return
        if checkpoint is not None:
            self.workbench.open_chat(f"{summary.name}@{checkpoint.step}")
        elif summary.is_running:
            self.workbench.open_chat(f"{summary.name}@live")
        elif self.checkpoint_table.checkpoints:
            self.workbench.open_chat(summary.name)
        else:
            notify_error(self.app, f"{summary.name} has no checkpoint to chat with; resume it until its first save.")

    def action_serve(self) -> None:
        """Serve the selected checkpoint, or the run, to other programs."""
        from workbench.serve.screen import ServeScreen

        summary, checkpoint = self.current, self.selected_checkpoint
        if summary is None or self._report_damage():
            return
        if not (summary.is_running or self.checkpoint_table.checkpoints):
            notify_error(self.app, f"{summary.name} has no checkpoint to serve; resume it until its first save.")
            return
        self.app.push_screen(ServeScreen(f"{summary.name}@{checkpoint.step}" if checkpoint else summary.name))

    def action_curves(self) -> None:
        """Open the curves of the run on the Train screen."""
        if (summary := self.current) is not None:
            self.workbench.open_train(summary.name)

    def action_queue(self) -> None:
        """Show the queue."""
        from workbench.train.queue_screen import QueueScreen

        self.app.push_screen(QueueScreen())

    def action_trash(self) -> None:
        """Show deleted runs."""
        from workbench.runs.trash_screen import TrashScreen

        self.app.push_screen(TrashScreen())

    def action_cached_data(self) -> None:
        """Show prepared data and the runs that use it."""
        from workbench.data.prepared_screen import PreparedDataScreen

        self.app.push_screen(PreparedDataScreen())

    # --- changing a run

    @work
    async def _change(self, change: Callable[[RunSummary], Awaitable[None]]) -> None:
        """Change the run under the cursor, and show the result."""
        if (summary := self.current) is not None:
            await change(summary)
            self.reload()
            self.list_checkpoints()

    def action_resume(self) -> None:
        """Resume training from the newest checkpoint."""
        self._change(self.actions.resume)

    def action_fork(self) -> None:
        """Start a new run from the selected checkpoint, or from the newest of the run."""
        if not self._report_damage():
            checkpoint = self.selected_checkpoint
            self._change(lambda summary: self.actions.fork(summary, checkpoint))

    def action_fine_tune(self) -> None:
        """Fine-tune the selected checkpoint, or the newest of the run."""
        if not self._report_damage():
            checkpoint = self.selected_checkpoint
            self._change(lambda summary: self.actions.fine_tune(summary, checkpoint))

    def action_enqueue(self) -> None:
        """Add the run to the queue."""
        if (run := self.selected_run) is not None:
            self.actions.enqueue(run)

    def action_notes(self) -> None:
        """Edit the notes of the run."""
        self._change(self.actions.edit_notes)

    def action_tags(self) -> None:
        """Edit the tags of the run."""
        self._change(self.actions.edit_tags)

    def action_rename(self) -> None:
        """Rename the run."""
        self._change(self.actions.rename)

    def action_export(self) -> None:
        """Write the curves of the run to a CSV file."""
        self._change(self.actions.export)

    def action_export_model(self) -> None:
        """Write the selected checkpoint, or the newest of the run, in a format of other programs."""
        if not self._report_damage():
            checkpoint = self.selected_checkpoint
            self._change(lambda summary: self.actions.export_model(summary, checkpoint))

    @work
    async def action_import_model(self) -> None:
        """Make a run from a model of another program."""
        await self.actions.import_model()
        self.reload()

    def action_delete(self) -> None:
        """Delete the selected checkpoint or, from the upper table, the whole run."""
        if self._report_damage():
            return
        checkpoint, checkpoints = self.selected_checkpoint, self.checkpoint_table.checkpoints
        if checkpoint is not None:
            others = len(checkpoints) - 1
            self._change(lambda summary: self.actions.delete_checkpoint(summary, checkpoint, others))
        else:
            self._change(lambda summary: self.actions.delete_run(summary, checkpoints))

    def action_pin(self) -> None:
        """Pin the checkpoint under the cursor, so that it is never deleted automatically, or unpin it."""
        run, checkpoint = self.selected_run, self.checkpoint_table.selected
        if run is not None and checkpoint is not None:
            attempt(self.app, lambda: pin(run, checkpoint.step))
            self.list_checkpoints()

    def action_verify(self) -> None:
        """Verify the checksums of the selected checkpoint, or of all of the run."""
        if not self._report_damage():
            self.checkpoint_table.verify()

    def action_copy_path(self) -> None:
        """Copy the path of the run, or of the selected checkpoint, to the clipboard."""
        chosen: Run | CheckpointInfo | None = self.selected_checkpoint or self.selected_run
        if chosen is not None:
            self.app.copy_to_clipboard(str(chosen.path))
            self.notify(f"Copied {chosen.path}", markup=False)
