"""The training loop, as a generator of events.

The caller iterates over the events and decides what to do with them. The parts share a `TrainingContext`:
`CommandHandler` executes commands between steps, `take_step` is one optimizer step, `StepMetrics` turns measurements
into events, `Tasks` evaluates, samples and saves on a schedule, and `Recovery` rolls back. Every rank runs this loop;
rank 0 alone executes commands and tasks, and broadcasts its decisions.
"""

from __future__ import annotations

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
from llm.training.recovery import Recovery, halve_micro_batch
from llm.training.step import OutOfMemory, Rows, take_step
from llm.training.tasks import Tasks


class Trainer:
    """Trains `context` to its length, with `loss_fn` as the loss; `events()` is the whole of it."""

    def __init__(self, context: TrainingContext, commands: CommandQueue, loss_fn: LossFn) -> None:
        self.context = context
        self.commands = commands
        self.loss_fn = loss_fn
        self.tasks = Tasks(context)
        self.results = StepMetrics(context)
        self.recovery = Recovery(context, self.results)
        self.command_handler = CommandHandler(context, commands, self.tasks, self.results, self.recovery)
        self.batches: BatchSource = batch_source(
            context.dataset,
            context.config,
            rows=context.batch_plan.global_batch_size,
            seq_len=context.batch_plan.seq_len,
            start=context.state.batch_index,
            cursor=context.state.data_cursor,
            rank=context.ranks.rank,
            ranks=context.ranks.world_size,
        )

    def events(self) -> Iterator[Event]:
        """Train until the length is reached or a stop comes; every event in the order it happened."""
        try:
            with Prefetcher(self.batches.batch, start=self.context.state.batch_index) as prefetcher:
                with self.results.exclude_time():
                    yield from self._before_first_step()
                is_over = False
                while not is_over:
                    yield from self._train_until_stop(prefetcher)
                    with self.results.exclude_time():
                        is_over = yield from self._finish()
        except Exception:
            yield from self.tasks.saver.outcome(wait=True)  # what was being saved is from before the trouble
            raise
        finally:
            self.tasks.saver.close()

    def _train_until_stop(self, prefetcher: Prefetcher[Rows]) -> Iterator[Event]:
        """Take steps until the length is reached or a stop is requested."""
        while self.context.state.step < self.context.batch_plan.steps:
            yield from self.command_handler.agree()
            if self.command_handler.stop is not None:
                break
            if self.command_handler.recover:
                yield from self._roll_back()
            else:
                yield from self._step(prefetcher.get(self.context.state.batch_index))

    def _step(self, batch: Rows) -> Iterator[Event]:
        """One step and what its number asks for; nothing of that when a stop came between its micro-batches."""
        result = take_step(self.context, batch, self.loss_fn, self.commands.is_stop_requested)
        while isinstance(result, OutOfMemory):
            yield halve_micro_batch(self.context)
            result = take_step(self.context, batch, self.loss_fn, self.commands.is_stop_requested)
        if result is None:
            return
        yield from self.results.add(result, batch)
        self._note_position()
        if not self.recovery.due:
            yield from self._due()

    def _note_position(self) -> None:
        """Where the next batch begins in the corpus, for the next save: of all ranks, each with streams of its own."""
        cursor = self.batches.cursor(self.context.state.batch_index)
        self.context.state.data_cursor = self.context.ranks.all_gather(cursor) if cursor is not None else None

    def _roll_back(self) -> Iterator[Event]:
        yield from self.results.read()
        yield self.recovery.roll_back(self.command_handler.recover)
        self.tasks.saver.saved_step = -1  # the batches to come have changed, so a stop now has to save anew

    # --- what is done between steps, by the first rank

    def _before_first_step(self) -> Iterator[Event]:
        if not self.context.ranks.is_first:
            return
        self.tasks.saver.prepare()
        if self.context.state.step > 0:
            return
        if self.context.config.evaluate.at_start:
            yield from self.tasks.evaluate()
        if self.context.config.sample.every:
            yield from self.tasks.sample()

    def _due(self) -> Iterator[Event]:
        """What this step's number asks for."""
        if self.context.ranks.is_first and any(self._is_due(every) for every in self._rhythms()):
            yield from self.results.read()  # chores know of all steps before them
            with self.results.exclude_time():
                yield from self._chores_due()

    def _chores_due(self) -> Iterator[Event]:
        """Evaluation comes first, so that a checkpoint holds its result; the last step's save is left to `_finish` for
        the same reason."""
        state, config = self.context.state, self.context.config
        best = state.best_validation_loss
        if self._is_due(config.evaluate.every):
            yield from self.tasks.evaluate()
        if self.context.core_tasks and self._is_due(config.evaluate.core_every):
            yield from self.tasks.core(self.commands.is_stop_requested)
        if self._is_due(config.sample.every):
            yield from self.tasks.sample()
        improved = state.best_validation_loss != best
        wanted = improved if config.checkpoint.only_improved else self._is_due(config.checkpoint.every)
        if wanted and state.step < self.context.batch_plan.steps:
            yield from self.tasks.save()

    def _rhythms(self) -> tuple[int, ...]:
        """Steps between the times that each chore is due."""
        config = self.context.config
        core = config.evaluate.core_every if self.context.core_tasks else 0
        return (config.evaluate.every, core, config.sample.every, config.checkpoint.every)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.context.state.step % every == 0

    def _finish(self) -> Generator[Event, None, bool]:
        """Run the last tasks and save; returns whether the training is over.

        A run has finished, or stopped, only once its state is on the disk. Where it cannot be saved, a stop that must
        save is refused and training continues; anything else raises `UserError`. All ranks do the same.
        """
        yield from self.results.read()
        context, stop = self.context, self.command_handler.stop
        reached = context.state.step >= context.batch_plan.steps
        failure = ""
        if context.ranks.is_first:
            if reached:
                yield from self._last_tasks()
            if reached or stop is None or stop.arguments.get("save", True):
                failure = yield from self._save_last()
        must_save = not reached and stop is not None and bool(stop.arguments.get("must_save"))
        failure, must_save = context.ranks.broadcast([failure, must_save])
        if failure and must_save:
            yield self.command_handler.refuse_stop(
                f"step {context.state.step} could not be saved ({failure}); training continues"
            )
            return False
        if failure:
            raise UserError(unsaved_message(context, failure))
        if reached:
            yield context.event(Finished, status="finished")
        elif stop is not None:
            reason = str(stop.arguments.get("reason", "asked to stop"))
            yield context.event(Finished, status="stopped", reason=reason, command_id=stop.id)
        return True

    def _last_tasks(self) -> Iterator[Event]:
        """Evaluate, measure CORE and sample at the last step, unless that step has just done so."""
        tasks = self.tasks
        if not tasks.is_done("evaluate"):
            yield from tasks.evaluate()
        if self.context.core_tasks and not tasks.is_done("core"):
            yield from tasks.core(self.commands.is_stop_requested)
        if self.context.config.sample.every and not tasks.is_done("sample"):
            yield from tasks.sample()

    def _save_last(self) -> Generator[Event, None, str]:
        """Save the present step unless it is saved; returns why it could not be saved, "" if it is on the disk."""
        saver = self.tasks.saver
        yield from saver.outcome(wait=True)
        if not self.tasks.is_saved:
            yield from self.tasks.save()
            yield from saver.outcome(wait=True)
        return "" if self.tasks.is_saved else saver.failure


def unsaved_message(context: TrainingContext, failure: str) -> str:
    """The sentence for a training that ended without its last save."""
    name, newest = context.run.name, newest_step(context.run.checkpoint_directory)
    kept = f"its newest checkpoint is step {newest}" if newest >= 0 else "it has no checkpoint"
    return (
        f"step {context.state.step} of {name} could not be saved ({failure}), and {kept}; correct that, then "
        f"llm-workbench resume {name} trains the missing steps."
    )
