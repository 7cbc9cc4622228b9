"""The training loop, as a generator of events.

The caller iterates over the events and decides what to do with them. The parts share a `TrainingContext`:
`CommandHandler` executes commands between steps, `take_step` is one optimizer step, `StepMetrics` turns measurements
into events, `Tasks` evaluates, samples and saves on a schedule, and `Recovery` rolls back. Every rank runs this loop;
rank 0 alone executes commands and tasks, and broadcasts its decisions.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from llm.data.batches.prefetch import Prefetcher
from llm.data.batches.source import BatchSource, batch_source
from llm.errors import UserError
from llm.events import Event, Finished
from llm.run.checkpoints import newest_step
from llm.training.commands import CommandQueue
from llm.training.context import TrainingContext
from llm.training.control import CommandHandler
from llm.training.distributed import LossFn
from llm.training.metrics import StepMetrics
from llm.training.rank_metrics import RankMetrics
from llm.training.recovery import Recovery, halve_micro_batch
from llm.training.step import OutOfMemory, Rows, take_step
from llm.training.survivor import save_after_loss
from llm.training.tasks import Tasks
from llm.training.threads import ThreadWatch


class Trainer:
    """Trains to the last step of the batch plan, or until a stop, by iterating over `events()`."""

    def __init__(self, context: TrainingContext, commands: CommandQueue, loss_fn: LossFn) -> None:
        self.context = context
        self.commands = commands
        self.loss_fn = loss_fn
        self.tasks = Tasks(context, commands.is_stop_requested)
        self.threads = ThreadWatch(context, loss_fn)
        self.step_metrics = StepMetrics(context)
        self.recovery = Recovery(context, self.step_metrics)
        context.ranks.handlers.update(self.tasks.handlers())
        self.rank_metrics = RankMetrics(context, loss_fn)
        self.handler = CommandHandler(
            context, commands, self.tasks, self.step_metrics, self.recovery, self.rank_metrics
        )
        self.cursor_at = context.state.batch_index
        self.batches: BatchSource = context.rollouts or batch_source(
            context.dataset,
            context.config,
            rows=context.batch_plan.global_batch_size,
            seq_len=context.batch_plan.seq_len,
            start=context.state.batch_index,
            cursor=context.state.data_cursor,
            rank=context.ranks.rank,
            ranks=context.ranks.world_size,
            pairs=context.references.train if context.references else None,
        )

    def events(self) -> Iterator[Event]:
        """Train until the last step or a stop; yields all events in order."""
        try:
            with Prefetcher(self._read_batch, start=self.context.state.batch_index) as prefetcher:
                with self.step_metrics.exclude_time():
                    yield from self._start()
                is_over = False
                while not is_over:
                    yield from self._train_until_stop(prefetcher)
                    with self.step_metrics.exclude_time():
                        is_over = yield from self._finish()
        except Exception as error:
            yield from self.tasks.saver.report(wait=True)  # the save in progress is of a step before the error
            lost = self.context.ranks.to_rank_lost(error)
            if lost is None:
                raise
            yield from save_after_loss(self.context, lost, self._save_after_loss)
        finally:
            self.tasks.saver.close()

    def _start(self) -> Iterator[Event]:
        if self.context.ranks.is_first:
            if self.context.state.sharding is None:
                self.tasks.saver.reserve_memory()
            if self.context.state.step == 0:
                yield from self.tasks.run_at_start()

    def _read_batch(self, i: int) -> tuple[Rows, int]:
        """Batch i, and the number of its targets over all ranks that are not ignored."""
        return self.batches.batch(i), self.batches.num_targets(i)

    def _train_until_stop(self, prefetcher: Prefetcher[tuple[Rows, int]]) -> Iterator[Event]:
        while self.context.state.step < self.context.batch_plan.steps:
            yield from self.handler.synchronize()
            if self.handler.stop is not None:
                break
            if self.handler.roll_back_reason:
                yield from self._roll_back()
            else:
                yield from self._step(*prefetcher.get(self.context.state.batch_index))

    def _step(self, batch: Rows, num_targets: int) -> Iterator[Event]:
        """One step and the tasks due after it. A stop between two micro-batches abandons the step."""
        began = time.perf_counter()
        if self.context.rollouts is not None:
            batch = self.context.rollouts.sample(batch, self.context.state.batch_index)
        with self.rank_metrics.step():
            result = take_step(self.context, batch, self.loss_fn, self.commands.is_stop_requested, num_targets)
        while isinstance(result, OutOfMemory):
            yield halve_micro_batch(self.context)
            result = take_step(self.context, batch, self.loss_fn, self.commands.is_stop_requested, num_targets)
        if result is None:
            return
        self.threads.add(time.perf_counter() - began, batch)
        yield from self.step_metrics.add(result, batch)
        self._update_cursor()
        if self.context.ranks.is_first and not self.recovery.reason:
            yield from self._run_tasks()

    def _run_tasks(self) -> Iterator[Event]:
        """The tasks that are due after this step. Another number of threads is chosen before a save, or saved."""
        is_due = self.threads.is_due
        if not is_due and not any(map(self.tasks.is_due, self.tasks.table())):
            return
        yield from self.step_metrics.read()  # tasks use the metrics of all steps before them
        with self.step_metrics.exclude_time():
            has_changed = is_due and (yield from self.threads.choose_again())
            yield from self.tasks.run_due()
            if has_changed and self.tasks.saves_unasked and not self.tasks.is_due("save"):
                yield from self.tasks.save()

    def _update_cursor(self) -> None:
        """Record where the next batch starts in a streamed corpus: the streams of all ranks, for the next save."""
        cursor = self.batches.cursor(self.context.state.batch_index)
        self.context.state.data_cursor = self.context.ranks.all_gather(cursor) if cursor is not None else None
        self.cursor_at = self.context.state.batch_index

    def _roll_back(self) -> Iterator[Event]:
        yield from self.step_metrics.read()
        yield self.recovery.roll_back(self.handler.roll_back_reason)
        self.tasks.saver.saved_step = -1  # the next batches differ from those of the checkpoint, so a stop saves again

    def _finish(self) -> Generator[Event, None, bool]:
        """Run the last tasks and save; returns whether training is over.

        A run is finished, or stopped, only once its state is on disk. Where the save fails, a stop with `must_save` is
        refused and training continues; otherwise `UserError`. All ranks do the same.
        """
        yield from self.step_metrics.read()
        context, stop = self.context, self.handler.stop
        is_last = context.state.step >= context.batch_plan.steps
        failure = ""
        if context.ranks.is_first:
            if is_last:
                yield from self.tasks.run_at_end()
            if is_last or stop is None or stop.arguments.get("save", True):
                failure = yield from self._save_last(at_once=stop is not None and bool(stop.arguments.get("at_once")))
        must_save = not is_last and stop is not None and bool(stop.arguments.get("must_save"))
        failure, must_save = context.ranks.broadcast([failure, must_save])
        if failure and must_save:
            message = f"step {context.state.step} could not be saved ({failure}); training continues"
            yield self.handler.refuse_stop(message)
            return False
        if failure:
            raise UserError(unsaved_message(context, failure))
        if is_last:
            yield context.event(Finished, status="finished")
        elif stop is not None:
            reason = str(stop.arguments.get("reason", "asked to stop"))
            yield context.event(Finished, status="stopped", reason=reason, command_id=stop.id)
        return True

    def _save_after_loss(self) -> Generator[Event, None, str]:
        """Save the last completed step after another rank has died; returns why it could not be saved, or ""."""
        if self.context.state.sharding is not None:
            return "the dead rank held a part of it"
        if self.context.state.data_cursor is not None and self.cursor_at != self.context.state.batch_index:
            return "the position in the text of the dead rank is not known"
        return (yield from self._save_last(at_once=True))

    def _save_last(self, *, at_once: bool) -> Generator[Event, None, str]:
        """Save the current step unless it is saved; returns why it could not be saved, or ""."""
        saver = self.tasks.saver
        if at_once:
            saver.hurry.set()
        yield from saver.report(wait=True)
        if not self.tasks.is_saved:
            yield from self.tasks.save(at_once=at_once)
            yield from saver.report(wait=True)
        return "" if self.tasks.is_saved else saver.failure


def unsaved_message(context: TrainingContext, failure: str) -> str:
    """The error of a training whose last save failed."""
    name, newest = context.run.name, newest_step(context.run.checkpoint_directory)
    checkpoint = f"its newest checkpoint is step {newest}" if newest >= 0 else "it has no checkpoint"
    return (
        f"step {context.state.step} of {name} could not be saved ({failure}), and {checkpoint}; correct that, then "
        f"llm-workbench resume {name} trains the missing steps."
    )
