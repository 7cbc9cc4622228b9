"""What the keys of the Runs screen do to a run: resume, fork, rename, tag, export, delete."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import RunConfig, with_overrides
from llm.errors import UserError, problem_of
from llm.files import expand_user
from llm.run import CheckpointInfo, Run
from llm.run.fork import Parent, fork, open_parent
from workbench.data.corpora import path_problem
from workbench.data.pasted import pasted_path
from workbench.formatting import format_size, plural
from workbench.runs.operations import check_new_name, delete_checkpoint, describe_deletion, rename
from workbench.runs.summaries import RunSummary
from workbench.runs.trash import move_to_trash
from workbench.train.extend_dialog import ask_extension, ask_rate, fork_rate_change_of
from workbench.train.fine_tuning import fine_tune
from workbench.train.service import Overrides
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.notices import attempt, notify_error
from workbench.ui.progress_dialog import ProgressDialog
from workbench.ui.screen import WorkbenchScreen

if TYPE_CHECKING:
    from workbench.presets.edit_screen import EditResult
    from workbench.runs.export_dialog import ExportChoice

LARGE_LOG_BYTES = 20 << 20  # exporting a larger log reports its progress


class RunActions:
    """Changes to a run. Each method opens its dialogs over `screen` and reports errors there. Call coroutines from a
    worker."""

    def __init__(self, screen: WorkbenchScreen) -> None:
        self.screen = screen
        self.fork_edits: dict[str, RunConfig] = {}
        """Edited configurations of forks that were not created, by the reference of the parent."""

    async def resume(self, summary: RunSummary) -> None:
        """Resume training from the newest checkpoint. For a finished run, ask for the new number of steps first."""
        overrides: Overrides = ()
        if summary.status == "finished":
            run, offered = Run(summary.path), 2 * summary.total_steps
            longer = await ask_extension(self.screen.app, run, summary.step, offered)
            if longer is None:
                return
            overrides = longer
        self._start(Run(summary.path), overrides)

    def _start(self, run: Run, overrides: Overrides = ()) -> None:
        """Train a run here or, if another run trains here, in a background process; show its curves."""
        workbench = self.screen.workbench
        try:
            here = workbench.training.begin(run, overrides)
        except (UserError, OSError) as error:
            notify_error(self.screen.app, error)
            return
        if not here:
            self.notify(f"{run.name} trains in a background process.")
        workbench.open_train(run.name)

    def enqueue(self, run: Run) -> None:
        """Add a run to the queue."""
        attempt(self.screen.app, lambda: self.screen.workbench.enqueue(run))

    async def fork(self, summary: RunSummary, checkpoint: CheckpointInfo | None) -> None:
        """Create a run that starts from a checkpoint (None: the newest), after its configuration was edited."""
        from workbench.runs.fork_screen import ForkResult, ForkScreen, initial_config

        workbench = self.screen.workbench
        try:
            parent = open_parent(workbench.home, f"{summary.name}@{checkpoint.step if checkpoint else 'last'}")
        except UserError as error:
            notify_error(self.screen.app, error)
            return
        config = self.fork_edits.get(parent.reference) or initial_config(parent)
        result: EditResult | None = await self.screen.app.push_screen_wait(ForkScreen(workbench.home, parent, config))
        if result is None:
            return
        self.fork_edits[parent.reference] = result.config
        if not isinstance(result, ForkResult):
            return
        config, rate = result.config, None
        if not result.weights_only:
            rate = await ask_rate(self.screen.app, lambda: fork_rate_change_of(parent, config))
            if rate is None:
                return
        self.notify(f"Copying {parent.reference}…")
        try:
            config = with_overrides(config, rate or ())
            run = await asyncio.to_thread(create_fork, workbench.home, parent, config, result.weights_only)
        except UserError as error:
            notify_error(self.screen.app, error)
            return
        del self.fork_edits[parent.reference]
        if result.enqueue:
            self.enqueue(run)
        else:
            self._start(run)

    async def fine_tune(self, summary: RunSummary, checkpoint: CheckpointInfo | None) -> None:
        """Create a run that fine-tunes a checkpoint (None: the newest) in a chosen way, and train it."""
        run = await fine_tune(self.screen, f"{summary.name}@{checkpoint.step if checkpoint else 'last'}")
        if run is not None:
            self._start(run)

    async def edit_notes(self, summary: RunSummary) -> None:
        question = AskText(f"Notes on {summary.name}:", value=summary.notes, optional=True)
        answer = await self.screen.app.push_screen_wait(question)
        if answer is not None:
            attempt(self.screen.app, lambda: Run(summary.path).update_meta(notes=answer))

    async def edit_tags(self, summary: RunSummary) -> None:
        question = f"Tags of {summary.name}, separated by commas:"
        answer = await self.screen.app.push_screen_wait(AskText(question, value=", ".join(summary.tags), optional=True))
        if answer is not None:
            tags = sorted({tag.strip() for tag in answer.split(",") if tag.strip()})
            attempt(self.screen.app, lambda: Run(summary.path).update_meta(tags=tags))

    async def rename(self, summary: RunSummary) -> None:
        if summary.is_running:
            notify_error(self.screen.app, f"{summary.name} is in training; stop it before you rename it.")
            return

        def problem(name: str) -> str:
            return "" if name == summary.name else problem_of(lambda: check_new_name(Run(summary.path), name))

        question = AskText(f"Rename {summary.name} to:", value=summary.name, problem_of=problem)
        answer = await self.screen.app.push_screen_wait(question)
        if answer and answer != summary.name and attempt(self.screen.app, lambda: rename(Run(summary.path), answer)):
            attempt(self.screen.app, lambda: self.screen.workbench.queue.rename(summary.name, answer))

    async def export(self, summary: RunSummary) -> None:
        """Write the curves as a new CSV file in `<home>/exports`."""
        await asyncio.to_thread(self._export, Run(summary.path), self.screen.workbench.home)

    def _export(self, run: Run, home: Path) -> None:
        from workbench.charts.export import free_path
        from workbench.runs.export import save_csv

        quarters = 1

        def progress(share: float) -> None:
            nonlocal quarters
            if is_large and share >= quarters / 4:
                quarters = int(share * 4) + 1
                self.notify(f"Exporting {run.name}: {share:.0%}")

        log = run.path / "events.jsonl"
        is_large = log.exists() and log.stat().st_size > LARGE_LOG_BYTES
        try:
            target = free_path(home, run.name, ".csv")
            steps = save_csv(run, target, progress)
        except (UserError, OSError) as error:
            notify_error(self.screen.app, error)
            return
        self.notify(f"Exported {plural(steps, 'step')} to {target}")

    async def export_model(self, summary: RunSummary, checkpoint: CheckpointInfo | None) -> None:
        """Write a checkpoint (None: the newest) in a format of other programs, chosen in a form."""
        from llm.interop.export import export
        from workbench.runs.export_dialog import ExportDialog

        run = Run(summary.path)
        try:
            info = checkpoint or run.checkpoint()
        except UserError as error:
            notify_error(self.screen.app, error)
            return
        form = ExportDialog(self.screen.workbench.home, run, info)
        choice: ExportChoice | None = await self.screen.app.push_screen_wait(form)
        if choice is None:
            return
        title = f"Exporting {choice.source.title} to {choice.format.name}"
        dialog = ProgressDialog(title, lambda: export(choice.source, choice.format, choice.dtype, choice.folder))
        if (folder := await self.screen.app.push_screen_wait(dialog)) is not None:
            self.notify(f"Exported to {folder}")

    async def import_model(self) -> None:
        """Make a run from a model of another program."""
        from llm.interop.formats import READABLE
        from llm.interop.import_run import import_run
        from llm.interop.imported import TokenizerNeeded

        path = await self._ask_path(f"Import {READABLE}. Its path:")
        tokenizer: Path | None = None
        while path is not None:
            work = partial(import_run, self.screen.workbench.home, path, tokenizer=tokenizer)
            dialog = ProgressDialog(f"Importing {path.name}", work)
            if (result := await self.screen.app.push_screen_wait(dialog)) is not None:
                run, warnings = result
                self.notify(" ".join([f"Imported {run.name}.", *warnings]))
            if not isinstance(dialog.error, TokenizerNeeded):
                return
            tokenizer = await self._ask_path("Its tokenizer, a folder or a file:")
            if tokenizer is None:
                return

    async def _ask_path(self, question: str) -> Path | None:
        """A typed or pasted path; None if that was canceled."""
        answer = await self.screen.app.push_screen_wait(AskText(question, problem_of=path_problem))
        return expand_user(pasted_path(answer)) if answer else None

    async def delete_run(self, summary: RunSummary, checkpoints: list[CheckpointInfo]) -> None:
        """Move a run to the trash after a confirmation."""
        if self._is_idle(summary) and await self._confirm(describe_deletion(summary, checkpoints)):
            attempt(self.screen.app, lambda: move_to_trash(self.screen.workbench.home, Run(summary.path)))

    async def delete_checkpoint(self, summary: RunSummary, info: CheckpointInfo, others: int) -> None:
        """Delete one checkpoint after a confirmation; `others` is the number of the run's other checkpoints."""
        rest = f"{plural(others, 'checkpoint')} remain{'s' * (others == 1)}" if others else "it is the only one"
        question = (
            f"Delete checkpoint {info.step} of {summary.name}? This frees {format_size(info.size_bytes)}; {rest}."
        )
        if self._is_idle(summary) and await self._confirm(question):
            attempt(self.screen.app, lambda: delete_checkpoint(Run(summary.path), info))

    def _is_idle(self, summary: RunSummary) -> bool:
        if summary.is_running:
            notify_error(
                self.screen.app, f"{summary.name} is in training; stop it before you delete it or a checkpoint."
            )
        return not summary.is_running

    async def _confirm(self, question: str) -> bool:
        answers = (Answer("keep", "Keep"), Answer("delete", "Delete"))
        return await self.screen.app.push_screen_wait(Ask(question, answers)) == "delete"

    def notify(self, text: str) -> None:
        self.screen.app.notify(text, markup=False)


def create_fork(home: Path, parent: Parent, config: RunConfig, weights_only: bool) -> Run:
    """Check and create a fork. Copies a checkpoint, which may be large: for a thread."""
    from llm.training.resume_checks import check_fork

    for _ in check_fork(parent, config, home):
        pass
    return fork(home, parent, config, weights_only=weights_only)
