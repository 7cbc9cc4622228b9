"""What the Runs screen does to a run: go on with it, fork it, put it in line, keep it, name it, throw it away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import work

from llm.config import RunConfig
from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from llm.run.fork import Parent, fork, open_parent
from workbench.formatting import format_size, plural
from workbench.runs.catalog import (
    Verification,
    check_new_name,
    delete_checkpoint,
    loss_of_deleting,
    pin,
    rename,
    verified,
)
from workbench.runs.summaries import RunSummary
from workbench.runs.trash import move_to_trash
from workbench.text import clean
from workbench.train.extend_dialog import ask_for_longer
from workbench.train.service import Overrides
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.screen import WorkbenchScreen
from workbench.ui.tables import LiveTable

if TYPE_CHECKING:
    from workbench.presets.edit_screen import EditResult

TOLD_EVERY_SECONDS = 0.2
TOLD_FROM_BYTES = 20 << 20  # a log from which exporting tells how far it is


class RunActions(WorkbenchScreen):
    """What changes a run. `RunsScreen` has the keys, says which run and which checkpoint are meant, and shows them."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.checkpoints: list[CheckpointInfo] = []
        """Those of the run under the cursor, whose name is `listed_run`."""
        self.listed_run = ""
        self.verifications: dict[str, Verification | float] = {}
        """By the path of a checkpoint: what reading it showed or, meanwhile, the share that was read."""
        self.fork_edits: dict[str, RunConfig] = {}
        """What was changed in the form of a fork that was left, by the name of its parent."""

    @property
    def current(self) -> RunSummary | None:
        """The run under the cursor."""
        raise NotImplementedError

    @property
    def current_checkpoint(self) -> CheckpointInfo | None:
        """The checkpoint under the cursor."""
        raise NotImplementedError

    @property
    def checkpoint_table(self) -> LiveTable:
        raise NotImplementedError

    def list_checkpoints(self) -> None:
        raise NotImplementedError

    def look_again(self) -> None:
        raise NotImplementedError

    # --- training

    @work
    async def action_resume(self) -> None:
        """Go on training the run from its newest checkpoint; a finished run is asked how much longer."""
        summary = self.current
        if summary is None:
            return
        overrides: Overrides = ()
        if summary.status == "finished":
            run, offered = Run(summary.path), 2 * summary.total_steps
            longer = await ask_for_longer(self.app, run, summary.step, offered)
            if longer is None:
                return
            overrides = longer
        try:
            here = self.workbench.training.begin(Run(summary.path), overrides)
        except (UserError, OSError) as error:
            self.say(str(error))
            return
        if not here:
            self.notify(f"{summary.name} trains in a process of its own.", markup=False)
        self.workbench.open_train(summary.name)

    def action_fork(self) -> None:
        """A new run that begins with a checkpoint: the one under the cursor, or the newest; its form opens first."""
        summary = self.current
        if summary is None:
            return
        chosen = self.current_checkpoint if self.checkpoint_table.has_focus else None
        try:
            parent = open_parent(self.workbench.home, f"{summary.name}@{chosen.step if chosen else 'last'}")
        except UserError as error:
            self.say(str(error))
            return
        self._edit_fork(parent)

    @work
    async def _edit_fork(self, parent: Parent) -> None:
        from workbench.runs.fork_screen import ForkResult, ForkScreen, proposed

        config = self.fork_edits.get(parent.reference) or proposed(parent)
        result: EditResult | None = await self.app.push_screen_wait(ForkScreen(self.workbench.home, parent, config))
        if result is None:
            return
        self.fork_edits[parent.reference] = result.config
        if isinstance(result, ForkResult):
            self.notify(f"copying {parent.reference}…", markup=False)
            self._make_fork(parent, result.config, result.weights_only, result.enqueue)

    @work(thread=True, group="fork", exit_on_error=False)
    def _make_fork(self, parent: Parent, config: RunConfig, weights_only: bool, enqueue: bool) -> None:
        """Outside the screen's thread, since a checkpoint may be large."""
        from llm.training.resume_checks import check_fork

        try:
            for _ in check_fork(parent, config, self.workbench.home):
                pass
            run = fork(self.workbench.home, parent, config, weights_only=weights_only)
        except UserError as error:
            self.app.call_from_thread(self.say, str(error))
            return
        self.app.call_from_thread(self._begin_fork, parent, run, enqueue)

    def _begin_fork(self, parent: Parent, run: Run, enqueue: bool) -> None:
        self.fork_edits.pop(parent.reference, None)
        self.look_again()
        if enqueue:
            self.attempt(lambda: self.workbench.enqueue(run))
        elif self.attempt(lambda: self.workbench.training.begin(run)):
            self.workbench.open_train(run.name)

    def action_enqueue(self) -> None:
        """Put the run in line, to be trained when the training that goes on here has ended."""
        if (summary := self.current) is not None:
            self.attempt(lambda: self.workbench.enqueue(Run(summary.path)))

    def action_waiting(self) -> None:
        """What waits in the queue."""
        from workbench.runs.storage_screen import QueueScreen

        self.app.push_screen(QueueScreen())

    # --- changing something

    def action_pin(self) -> None:
        """Keep the checkpoint under the cursor for good, or let it be pruned again."""
        summary, info = self.current, self.current_checkpoint
        if summary is None or info is None:
            return
        self.attempt(lambda: pin(Run(summary.path), info.step))
        self.list_checkpoints()

    def action_verify(self) -> None:
        """Read every byte of the checkpoints and compare with their checksums: of one, or of all of the run."""
        one = self.current_checkpoint if self.checkpoint_table.has_focus else None
        infos = [one] if one is not None else self.checkpoints
        for info in infos:
            self.verifications[str(info.path)] = 0.0
        self.list_checkpoints()
        self._verify(list(infos))

    @work(thread=True, group="runs-verify")
    def _verify(self, infos: Sequence[CheckpointInfo]) -> None:
        for info in infos:
            self.verifications[str(info.path)] = verified(info, self._progress_of(info))
            self.app.call_from_thread(self._verified, info)

    def _progress_of(self, info: CheckpointInfo) -> Callable[[int], None]:
        """Shows the share of a checkpoint that was read, a few times a second."""
        done, told = 0, time.monotonic()

        def note(count: int) -> None:
            nonlocal done, told
            done += count
            if time.monotonic() - told >= TOLD_EVERY_SECONDS:
                told = time.monotonic()
                self.verifications[str(info.path)] = done / max(1, info.size_bytes)
                self.app.call_from_thread(self.list_checkpoints)

        return note

    def _verified(self, info: CheckpointInfo) -> None:
        found = self.verifications[str(info.path)]
        if isinstance(found, Verification) and found.problem:
            self.say(found.problem)
        self.list_checkpoints()

    def check_text(self, info: CheckpointInfo) -> Text:
        """What is known of a checkpoint's files."""
        found = self.verifications.get(str(info.path))
        if found is None:
            return Text("—", style="dim")
        if isinstance(found, float):
            return Text(f"{found:.0%}")
        return Text("whole", style="green") if found.verdict == "whole" else Text("damaged", style="red")

    @work
    async def action_notes(self) -> None:
        """Write a line about the run."""
        summary = self.current
        if summary is None:
            return
        question = f"Notes on {summary.name}:"
        answer = await self.app.push_screen_wait(AskText(question, value=summary.notes, optional=True))
        if answer is not None:
            self.attempt(lambda: Run(summary.path).update_meta(notes=answer))
            self.look_again()

    @work
    async def action_rename(self) -> None:
        """Give the run another name."""
        summary = self.current
        if summary is None:
            return
        if summary.is_running:
            self.say(f"{summary.name} is in training; stop it before giving it another name.")
            return
        question = AskText(f"Rename {summary.name} to:", value=summary.name, problem_of=_not_a_name_for(summary))
        answer = await self.app.push_screen_wait(question)
        if answer and answer != summary.name:
            if self.attempt(lambda: rename(Run(summary.path), answer)):
                self.attempt(lambda: self.workbench.queue.renamed(summary.name, answer))
            self.look_again()

    @work
    async def action_tags(self) -> None:
        """Words to find the run by."""
        summary = self.current
        if summary is None:
            return
        question = f"Tags of {summary.name}, separated by commas:"
        answer = await self.app.push_screen_wait(AskText(question, value=", ".join(summary.tags), optional=True))
        if answer is not None:
            tags = sorted({tag.strip() for tag in answer.split(",") if tag.strip()})
            self.attempt(lambda: Run(summary.path).update_meta(tags=tags))
            self.look_again()

    @work(thread=True, group="export", exit_on_error=False)
    def _export(self, run: Run, home: Path) -> None:
        from workbench.charts.export import free_path
        from workbench.runs.export import save_csv

        quarters = 1

        def progress(share: float) -> None:
            nonlocal quarters
            if is_long and share >= quarters / 4:
                quarters = int(share * 4) + 1
                self.app.call_from_thread(self.notify, f"exporting {run.name}: {share:.0%}", markup=False)

        log = run.path / "events.jsonl"
        is_long = log.exists() and log.stat().st_size > TOLD_FROM_BYTES
        try:
            target = free_path(home, run.name, ".csv")
            steps = save_csv(run, target, progress)
        except (UserError, OSError) as error:
            self.app.call_from_thread(self.say, str(error))
            return
        self.app.call_from_thread(self.notify, f"wrote {plural(steps, 'step')} to {target}", markup=False)

    def action_export(self) -> None:
        """Write the curves of the run as CSV into `<home>/exports`, beside what was written there before."""
        if (summary := self.current) is not None:
            self._export(Run(summary.path), self.workbench.home)

    @work
    async def action_delete(self) -> None:
        """Delete the checkpoint under the cursor or, from the upper table, the whole run; asks first."""
        summary, info = self.current, self.current_checkpoint
        if summary is None:
            return
        if summary.is_running:
            self.say(f"{summary.name} is in training; stop it before deleting anything of it.")
        elif self.checkpoint_table.has_focus and info is not None:
            left = len(self.checkpoints) - 1
            rest = f"it leaves {plural(left, 'other')}" if left else "it is the only one"
            question = (
                f"Deleting checkpoint {info.step} of {summary.name} frees {format_size(info.size_bytes)}; {rest}."
            )
            if await self.confirmed(question):
                self.attempt(lambda: delete_checkpoint(Run(summary.path), info))
                self.list_checkpoints()
        elif await self.confirmed(loss_of_deleting(summary, self.checkpoints, format_size(summary.size_bytes))):
            self.attempt(lambda: move_to_trash(self.workbench.home, Run(summary.path)))
            self.look_again()

    async def confirmed(self, question: str) -> bool:
        answers = (Answer("keep", "Keep it"), Answer("delete", "Delete it"))
        return await self.app.push_screen_wait(Ask(question, answers)) == "delete"

    def action_trash(self) -> None:
        """What was deleted."""
        from workbench.runs.storage_screen import TrashScreen

        self.app.push_screen(TrashScreen())

    def action_cached_data(self) -> None:
        """Prepared data, and which runs use them."""
        from workbench.runs.storage_screen import CachedDataScreen

        self.app.push_screen(CachedDataScreen())

    def action_copy_path(self) -> None:
        """Put the path of the run, or of the checkpoint, on the clipboard of the terminal."""
        summary, info = self.current, self.current_checkpoint
        if summary is None:
            return
        path = info.path if self.checkpoint_table.has_focus and info is not None else summary.path
        self.app.copy_to_clipboard(str(path))
        self.notify(f"copied {path}", markup=False)

    def attempt(self, change: Callable[[], object]) -> bool:
        """Do it, or say what stood in the way; whether it was done."""
        try:
            change()
        except UserError as error:
            self.say(str(error))
        except OSError as error:
            self.say(f"{error.filename or 'the file'} could not be changed ({error.strerror}).")
        else:
            return True
        return False

    def say(self, problem: str) -> None:
        self.notify(clean(problem), severity="error", markup=False)


def _not_a_name_for(summary: RunSummary) -> Callable[[str], str]:
    def problem_of(text: str) -> str:
        try:
            if text != summary.name:
                check_new_name(Run(summary.path), text)
        except UserError as error:
            return str(error)
        return ""

    return problem_of
