"""The training loop, as a generator of events.

Whoever drains it decides what becomes of the events. Its parts share a `Job`: `Steering` obeys commands between steps,
`take_step` is one step, `Results` makes events of what steps measured, `Chores` evaluate, sample and save when that is
due, and `Recovery` goes back after trouble. Of several ranks all run this loop in step; the first alone obeys commands
and does the chores, and the others hear what it decided.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

from llm.data.batches.prefetch import Prefetcher
from llm.data.batches.windows import BatchSource
from llm.data.tokens.prepare import batch_source
from llm.errors import UserError
from llm.events import Event, Finished
from llm.optim import lr_at, momentum_at
from llm.run.checkpoints import newest_step
from llm.training.commands import CommandQueue
from llm.training.context import Job
from llm.training.control import Steering
from llm.training.distributed import LossOf
from llm.training.metrics import Results
from llm.training.recovery import Recovery, halve_micro_batch
from llm.training.step import Rows, StepResult, TooLarge, take_step
from llm.training.tasks import Chores


class Trainer:
    """Trains `job` to its length, with `loss_of` as the loss; `events()` is the whole of it."""

    def __init__(self, job: Job, commands: CommandQueue, loss_of: LossOf) -> None:
        self.job = job
        self.commands = commands
        self.loss_of = loss_of
        self.chores = Chores(job)
        self.results = Results(job)
        self.recovery = Recovery(job, self.results)
        self.steering = Steering(job, commands, self.chores, self.results, self.recovery)
        self.batches: BatchSource = batch_source(
            job.dataset,
            job.config,
            rows=job.length.rows,
            seq_len=job.length.seq_len,
            start=job.state.batch_index,
            cursor=job.state.data_cursor,
            rank=job.ranks.rank,
            ranks=job.ranks.count,
        )

    def events(self) -> Iterator[Event]:
        """Train until the length is reached or a stop comes; every event in the order it happened."""
        try:
            with Prefetcher(self.batches.batch, start=self.job.state.batch_index) as prefetcher:
                with self.results.uncounted():
                    yield from self._before_first_step()
                is_over = False
                while not is_over:
                    yield from self._train_until_stop(prefetcher)
                    with self.results.uncounted():
                        is_over = yield from self._finish()
        except Exception:
            yield from self.chores.saver.outcome(wait=True)  # what was being saved is from before the trouble
            raise
        finally:
            self.chores.saver.close()

    def _train_until_stop(self, prefetcher: Prefetcher[Rows]) -> Iterator[Event]:
        """Take steps until the length is reached or a stop is requested."""
        while self.job.state.step < self.job.length.steps:
            yield from self.steering.agree()
            if self.steering.stop is not None:
                break
            if self.steering.recover:
                yield from self._roll_back()
            else:
                yield from self._step(prefetcher.get(self.job.state.batch_index))

    def _step(self, batch: Rows) -> Iterator[Event]:
        """One step and what its number asks for; nothing of that when a stop came between its micro-batches."""
        result = self._taken(batch)
        while isinstance(result, TooLarge):
            yield halve_micro_batch(self.job)
            result = self._taken(batch)
        if result is None:
            return
        yield from self.results.add(result, batch)
        self._note_position()
        if not self.recovery.due:
            yield from self._due()

    def _taken(self, batch: Rows) -> StepResult | TooLarge | None:
        job = self.job
        train, state = job.config.train, job.state
        lr = lr_at(state.step, job.length.steps, job.config) * train.lr_multiplier
        return take_step(
            state,
            batch,
            job.plan,
            loss_of=self.loss_of,
            accumulation=job.length.accumulation,
            clip=train.clip,
            lr=lr,
            lr_scale=lr / train.lr,
            momentum=momentum_at(state.step, job.config),
            seed=train.seed,
            ranks=job.ranks,
            # Several ranks agree on a stop only between steps, for none may leave another waiting for its gradients.
            abandon=self.commands.stop_is_waiting if job.ranks.count == 1 else lambda: False,
            loss_limit=state.spikes.usual(state.step + 1).limit if train.on_spike == "skip" else math.inf,
        )

    def _note_position(self) -> None:
        """Where the next batch begins in the corpus, for the next save: of all ranks, each with streams of its own."""
        cursor = self.batches.cursor(self.job.state.batch_index)
        self.job.state.data_cursor = self.job.ranks.gather(cursor) if cursor is not None else None

    def _roll_back(self) -> Iterator[Event]:
        yield from self.results.read()
        yield self.recovery.roll_back(self.steering.recover)
        self.chores.saver.saved_step = -1  # the batches to come have changed, so a stop now has to save anew

    # --- what is done between steps, by the first rank

    def _before_first_step(self) -> Iterator[Event]:
        if not self.job.ranks.is_first:
            return
        self.chores.saver.prepare()
        if self.job.state.step > 0:
            return
        if self.job.config.evaluate.at_start:
            yield from self.chores.evaluate()
        if self.job.config.sample.every:
            yield from self.chores.sample()

    def _due(self) -> Iterator[Event]:
        """What this step's number asks for."""
        if self.job.ranks.is_first and any(self._is_due(every) for every in self._rhythms()):
            yield from self.results.read()  # chores know of all steps before them
            with self.results.uncounted():
                yield from self._chores_due()

    def _chores_due(self) -> Iterator[Event]:
        """Evaluation comes first, so that a checkpoint holds its result; the last step's save is left to `_finish` for
        the same reason."""
        state, config = self.job.state, self.job.config
        best = state.best_validation_loss
        if self._is_due(config.evaluate.every):
            yield from self.chores.evaluate()
        if self.job.core_tasks and self._is_due(config.evaluate.core_every):
            yield from self.chores.core(self.commands.stop_is_waiting)
        if self._is_due(config.sample.every):
            yield from self.chores.sample()
        improved = state.best_validation_loss != best
        wanted = improved if config.checkpoint.only_improved else self._is_due(config.checkpoint.every)
        if wanted and state.step < self.job.length.steps:
            yield from self.chores.save()

    def _rhythms(self) -> tuple[int, ...]:
        """Steps between the times that each chore is due."""
        config = self.job.config
        core = config.evaluate.core_every if self.job.core_tasks else 0
        return (config.evaluate.every, core, config.sample.every, config.checkpoint.every)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.job.state.step % every == 0

    def _finish(self) -> Generator[Event, None, bool]:
        """Run the last tasks and save; returns whether the training is over.

        A run has finished, or stopped, only once its state is on the disk. Where it cannot be saved, a stop that must
        save is refused and training continues; anything else raises `UserError`. All ranks do the same.
        """
        yield from self.results.read()
        job, stop = self.job, self.steering.stop
        reached = job.state.step >= job.length.steps
        failure = ""
        if job.ranks.is_first:
            if reached:
                yield from self._last_tasks()
            if reached or stop is None or stop.arguments.get("save", True):
                failure = yield from self._save_last()
        must_save = not reached and stop is not None and bool(stop.arguments.get("must_save"))
        failure, must_save = job.ranks.share([failure, must_save])
        if failure and must_save:
            yield self.steering.refuse_stop(f"step {job.state.step} could not be saved ({failure}); training continues")
            return False
        if failure:
            raise UserError(unsaved_message(job, failure))
        if reached:
            yield job.say(Finished, status="finished")
        elif stop is not None:
            reason = str(stop.arguments.get("reason", "asked to stop"))
            yield job.say(Finished, status="stopped", reason=reason, command_id=stop.id)
        return True

    def _last_tasks(self) -> Iterator[Event]:
        """Evaluate, measure CORE and sample at the last step, unless that step has just done so."""
        chores = self.chores
        if not chores.is_done("evaluate"):
            yield from chores.evaluate()
        if self.job.core_tasks and not chores.is_done("core"):
            yield from chores.core(self.commands.stop_is_waiting)
        if self.job.config.sample.every and not chores.is_done("sample"):
            yield from chores.sample()

    def _save_last(self) -> Generator[Event, None, str]:
        """Save the present step unless it is saved; returns why it could not be saved, "" if it is on the disk."""
        saver = self.chores.saver
        yield from saver.outcome(wait=True)
        if not self.chores.is_saved:
            yield from self.chores.save()
            yield from saver.outcome(wait=True)
        return "" if self.chores.is_saved else saver.failure


def unsaved_message(job: Job, failure: str) -> str:
    """The sentence for a training that ended without its last save."""
    name, newest = job.run.name, newest_step(job.run.checkpoint_directory)
    kept = f"its newest checkpoint is step {newest}" if newest >= 0 else "it has no checkpoint"
    return (
        f"step {job.state.step} of {name} could not be saved ({failure}), and {kept}; correct that, then "
        f"llm-workbench resume {name} trains the missing steps."
    )
