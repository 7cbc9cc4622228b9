"""Train a run directory: prepare its data, build or restore its state, and log the trainer's events.

The workbench, the command line and `python -m llm.train RUN_DIR` all call `run_training`.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from llm.config import RunConfig, resumed_config
from llm.config.overrides import Overrides, merge_overrides
from llm.data.batches.source import epoch_tokens
from llm.data.tokens.dataset import Dataset
from llm.data.tokens.prepare import open_prepared, prepare
from llm.device import make_plan
from llm.errors import UserError
from llm.events import Event, Finished, RolledBack, Skipped, Started, StepLogged, Warned
from llm.files import remove_staging, write_atomic
from llm.generators import until_stopped
from llm.optim import unused_lr_warning
from llm.run import EventLog, Run
from llm.run.lock import RunLock
from llm.run.log import last_event_of, last_events
from llm.training.batch_plan import BatchPlan, resolve_batch_plan
from llm.training.commands import CommandQueue
from llm.training.context import StepContext, TrainingContext
from llm.training.distributed import LossFn, Ranks
from llm.training.length import measure_length
from llm.training.live import LiveWeights
from llm.training.loop import Trainer
from llm.training.micro_batch import choose_micro_batch
from llm.training.objective import build_objective
from llm.training.resume_checks import check_resume, check_world_size, load_core_tasks, newest_state
from llm.training.setup import (
    build_loss_fn,
    check_checkpoints,
    check_memory,
    fewer_threads_warning,
    last_step,
    memory_warning,
    resolve_plan,
    restore_or_init,
    save_tokenizer,
    thread_warning,
)
from llm.training.stages import prepare_stage
from llm.training.state import TrainerState
from llm.training.step import is_out_of_memory

SETS_STEP = (Started, StepLogged, Skipped, RolledBack)  # not `Saved`, which comes after its step
OnEvent = Callable[[Event], None]


def run_training(
    run: Run,
    home: Path,
    *,
    commands: CommandQueue | None = None,
    overrides: Overrides = (),
    on_event: OnEvent = lambda event: None,
    on_live: Callable[[LiveWeights], None] = lambda live: None,
    ranks: Ranks | None = None,
) -> Finished:
    """Train `run` from its newest checkpoint to its last step or a stop; returns the last event.

    `overrides` change fields that are `safe` in the schema. `on_event` receives every event after it is logged, and
    `on_live` access to the weights once they exist. Raises `UserError` for errors that the user can correct. The log
    ends with `Finished` unless the process is killed. Ranks other than 0 train, but take no commands and log nothing.
    """
    ranks, queue = ranks or Ranks(), commands or CommandQueue()
    if not ranks.is_first:
        events = training_events(run, home, CommandQueue(), overrides, on_live, ranks)
        return next(event for event in events if isinstance(event, Finished))
    with run.lock() as lock:
        queue.tail = run.commands()
        if run.checkpoints() and (stopped := check_before_resume(run, home, queue, overrides, on_event, ranks)):
            ranks.broadcast("")  # the other ranks wait for the name of the dataset: there is none
            return stopped
        for place in (run.path, run.checkpoint_directory, run.path / "live"):
            remove_staging(place)
        log = open_log(run)
        try:
            events = training_events(run, home, queue, overrides, on_live, ranks, lock.warnings)
            return log_events(run, log, lock, events, on_event)
        finally:
            log.close()


def open_log(run: Run) -> EventLog:
    """Open the run's log for writing; `UserError` where that fails."""
    try:
        return run.log()
    except OSError as error:
        path = run.path / "events.jsonl"
        raise UserError(f"{path} cannot be written ({error.strerror}); make room, or allow writing.") from error


def check_before_resume(
    run: Run, home: Path, commands: CommandQueue, overrides: Overrides, on_event: OnEvent, ranks: Ranks
) -> Finished | None:
    """Check that a run with a checkpoint can be resumed; the last event if a stop interrupts the checks, else None.

    Logs nothing, so that a refused resume leaves the run unchanged. Raises `UserError` for a refusal.
    """
    checks = check_resume(run, home, overrides, ranks.world_size)
    with closing(checks):
        for event in checks:
            on_event(event)
            if commands.is_stop_requested():
                stopped = stopped_event(run, commands)
                on_event(stopped)
                return stopped
    return None


def log_events(
    run: Run, log: EventLog, lock: RunLock, events: Generator[Event, None, None], on_event: OnEvent
) -> Finished:
    """Log every event and pass it to `on_event`; an error is logged as `Finished` and raised.

    If training does not start, the previous `Finished` of the run is appended again, so that its status does not
    change.
    """
    step, is_started, previous = last_step(run), False, previous_end(run)

    def log_end(end: Event) -> None:
        if log.lines.is_gone and not log.folder_is_gone:  # removed since the last event
            log.restart(step)
        log.append(end)
        if previous is not None and not is_started:
            log.append(previous)

    try:
        with closing(events):
            for event in events:
                (log_end if isinstance(event, Finished) else log.append)(event)
                on_event(event)
                is_started = is_started or isinstance(event, Started)
                if isinstance(event, SETS_STEP):
                    step = event.step
                if isinstance(event, Finished):
                    return event
                check_run_directory(run, log, lock, step)
        raise RuntimeError("training ended without a Finished event")
    except KeyboardInterrupt:
        log_end(Finished(step=step, status="stopped", reason="interrupted again before it was saved"))
        raise
    except BaseException as error:
        problem = to_user_error(error)
        if problem is None:
            with suppress(OSError):  # a full disk must not hide what happened
                write_atomic(run.path / "crash.txt", traceback.format_exc().encode())
        reason = str(problem or error) or type(error).__name__
        failure = Finished(step=step, status="failed", reason=reason)
        log_end(failure if previous is None or is_started else Warned(step=step, message=f"not resumed: {reason}"))
        on_event(failure)
        if problem is None or problem is error:
            raise
        raise problem from error


def check_run_directory(run: Run, log: EventLog, lock: RunLock, step: int) -> None:
    """Recreate a removed event log or lock file. UserError where the run directory was removed or moved, or where
    another process trains the run since its lock was removed."""
    if log.lines.is_gone:
        if log.folder_is_gone:
            raise UserError(
                f"the folder of {run.name} was removed or moved away, so its training has ended; if it was moved, move "
                f"it back to {run.path} and resume it."
            )
        log.restart(step)
    with suppress(OSError):  # no room for a new lock file: the lock on the folder remains
        lock.renew()


def previous_end(run: Run) -> Finished | None:
    """The last event of the run's log if it is `Finished`; None for a new run, or one that was killed."""
    events = last_events(run.path / "events.jsonl")
    return events[-1] if events and isinstance(events[-1], Finished) else None


def to_user_error(error: BaseException) -> UserError | None:
    """An error that the user can correct, as a `UserError`; None for any other."""
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError(
            "the memory ran out; end other programs, or lower train.batch_size, train.seq_len or the model's size; "
            "the run can be resumed from its last checkpoint."
        )
    return None


def training_events(
    run: Run,
    home: Path,
    commands: CommandQueue,
    overrides: Overrides,
    on_live: Callable[[LiveWeights], None],
    ranks: Ranks,
    warnings: Sequence[str] = (),
) -> Generator[Event, None, None]:
    """All events of a training, from preparing the data to its end; `warnings` are logged once it has started."""
    context = yield from prepare_training(run, home, commands, overrides, ranks)
    if context is None:
        yield stopped_event(run, commands)
        return
    loss_fn, warning = compile_loss(context)
    if context.config.train.minutes and not context.state.flops_per_second:
        yield from measure_length(context, loss_fn)
    on_live(LiveWeights(run.name, context.state, context.dataset.tokenizer, context.plan))
    started = started_event(context)
    changes = change_warning(run, started) if ranks.is_first else ""
    yield started
    unused_lr = unused_lr_warning(context.state.optimizer, context.config)
    more = filter(None, (changes, warning, thread_warning(context.plan, ranks), unused_lr))
    for message in (*warnings, *context.dataset.warnings, *more):
        yield Warned(step=context.state.step, message=message)
    yield from Trainer(context, commands, loss_fn).events()


def prepare_training(
    run: Run, home: Path, commands: CommandQueue, overrides: Overrides, ranks: Ranks
) -> Generator[Event, None, TrainingContext | None]:
    """The data, the state and the plan of a training, or None after a stop."""
    newest = newest_state(run)
    changed = merge_overrides(newest.get("overrides", {}), overrides)
    config = resumed_config(run.config(), changed.items())
    check_memory(config, 1, ranks)  # before the text is read, whose vocabulary is not known yet
    check_checkpoints(run, config)
    check_world_size(config, home, ranks.world_size, newest)
    core_tasks = load_core_tasks(config, home)  # before the data, so that a missing bundle is reported at once
    dataset = yield from prepare_on_ranks(config, home, commands, ranks, str(newest.get("data_fingerprint", "")))
    if dataset is None:
        return None
    if ranks.is_first:
        save_tokenizer(run, dataset)
    check_memory(config, dataset.tokenizer.vocab_size, ranks)
    if message := memory_warning(config, dataset.tokenizer.vocab_size):
        yield Warned(step=last_step(run), message=message)
    state, is_resumed = yield from restore_or_init(run, config, dataset, ranks)
    state.overrides = changed
    batch_plan = yield from choose_batch_plan(config, dataset, state, ranks)
    threads = (state.plan or {}).get("threads", 0) or config.train.threads
    plan = resolve_plan(config, state, dataset, batch_plan, ranks)
    if message := fewer_threads_warning(threads, plan):
        yield Warned(step=state.step, message=message)
    context = TrainingContext(config, state, plan, batch_plan, ranks, core_tasks, run=run, dataset=dataset)
    context.is_resumed = is_resumed
    yield from prepare_stage(context)
    return context


def choose_batch_plan(
    config: RunConfig, dataset: Dataset, state: TrainerState, ranks: Ranks
) -> Generator[Event, None, BatchPlan]:
    """The batch plan of a state, with micro-batches that fit in memory."""
    batch_plan = resolve_batch_plan(
        config,
        dataset.tokenizer.vocab_size,
        epoch_tokens(dataset, config),
        ranks.world_size,
        global_batch_size=state.global_batch_size,
        micro_batch=state.micro_batch,
        flops_per_second=state.flops_per_second,
    )
    state.global_batch_size = batch_plan.global_batch_size
    context = StepContext(config, state, make_plan(config.train, state.plan), batch_plan, ranks)
    yield from choose_micro_batch(context)
    return context.batch_plan


def prepare_on_ranks(
    config: RunConfig, home: Path, commands: CommandQueue, ranks: Ranks, known: str
) -> Generator[Event, None, Dataset | None]:
    """The dataset, or None after a stop. Rank 0 prepares and verifies it; the others then open it."""
    dataset = None
    if ranks.is_first:
        dataset = yield from until_stopped(prepare(config, home, known), commands.is_stop_requested)
    name = ranks.broadcast(dataset.path.name if dataset else "")
    return open_prepared(config, home, name) if name and not ranks.is_first else dataset


def stopped_event(run: Run, commands: CommandQueue) -> Finished:
    stop = commands.requested_stop()
    reason = str(stop.arguments.get("reason", "asked to stop")) if stop else "asked to stop"
    command_id = stop.id if stop else ""
    return Finished(
        step=last_step(run), status="stopped", reason=f"{reason}, before the first step", command_id=command_id
    )


def compile_loss(context: TrainingContext) -> tuple[LossFn, str]:
    """The loss function, which averages gradients over ranks, and a warning if it could not be compiled, else ""."""
    batch_plan, ranks = context.batch_plan, context.ranks
    shape = (batch_plan.micro_batch(ranks.world_size), batch_plan.seq_len)
    objective = build_objective(context.state.model, context.config)
    context.metrics = objective.metrics
    loss_fn, warning = build_loss_fn(context.state, context.plan, shape, objective)
    if warning or not objective.is_compiled:
        context.change_plan(compiled=False)
    if context.state.sharding is None:
        loss_fn = ranks.wrap(context.state.model, loss_fn)
    return loss_fn, warning


def started_event(context: TrainingContext) -> Started:
    return Started(
        step=context.state.step,
        total_steps=context.batch_plan.steps,
        parameters=context.batch_plan.parameters,
        tokens_per_step=context.batch_plan.tokens_per_step,
        device=context.plan.device,
        precision=context.plan.precision,
        threads=context.plan.threads,
        compiled=context.plan.compiled,
        pid=os.getpid(),
        host=socket.gethostname(),
        resumed_from=f"step-{context.state.step:08d}" if context.is_resumed else "",
        changed=context.state.overrides,
        world_size=context.ranks.world_size,
        minutes=context.config.train.minutes,
        micro_batch=0 if context.config.train.batch_size else context.state.micro_batch,
    )


def change_warning(run: Run, started: Started) -> str:
    """A warning if ranks, threads, precision or device differ from the last start of the run, since results then differ
    by rounding; "" if none does."""
    before = last_event_of(run.path / "events.jsonl", Started)
    if before is None or not started.resumed_from:
        return ""
    pairs = (("world_size", "ranks"), ("threads", "threads"), ("precision", "precision"), ("device", "device"))
    changes = [
        f"{label} {getattr(before, name)} → {getattr(started, name)}"
        for name, label in pairs
        if getattr(before, name) != getattr(started, name)
    ]
    if not changes:
        return ""
    return f"resumed with other {', '.join(changes)}: results differ by rounding from those of an undisturbed run."
