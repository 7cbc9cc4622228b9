"""Train a run directory: prepare its data, build or restore its state, drain the trainer into its event log.

The workbench's thread, the command line and `python -m llm.train RUN_DIR` all call `run_training`.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from llm.config import RunConfig, resumed_config
from llm.config.overrides import Overrides, merge_overrides
from llm.data.tokens.dataset import Dataset
from llm.errors import UserError
from llm.events import Event, Finished, RolledBack, Skipped, Started, StepLogged, Warned
from llm.files import remove_staging, write_atomic
from llm.optim import unused_lr_warning
from llm.run import EventLog, Run
from llm.run.lock import RunLock
from llm.run.log import last_events
from llm.training.batch_plan import resolve_batch_plan
from llm.training.commands import CommandQueue
from llm.training.context import TrainingContext
from llm.training.distributed import LossFn, Ranks
from llm.training.live import LiveWeights
from llm.training.loop import Trainer
from llm.training.resume_checks import check_resume, check_world_size, load_core_tasks, newest_state
from llm.training.setup import (
    build_loss_fn,
    check_checkpoints,
    last_step,
    memory_warning,
    prepared,
    resolve_plan,
    restore_or_init,
    save_tokenizer,
    thread_warning,
)
from llm.training.step import is_out_of_memory

WHERE_IT_STANDS = (Started, StepLogged, Skipped, RolledBack)  # a save may be told of later than it was made
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
    """Train `run` from where it stands to its end, or until it is stopped; the last event says which.

    `overrides` are fields a resumed run may differ in (`safe` in the schema). `on_event` sees every event after it
    was logged; `on_live` gets access to the weights once there are any. Raises `UserError` for what a person can mend;
    the log ends with `Finished` whatever happens short of a kill. Of several `ranks` the first does all of this; the
    others only train.
    """
    ranks, queue = ranks or Ranks(), commands or CommandQueue()
    if not ranks.is_first:
        events = training_events(run, home, CommandQueue(), overrides, on_live, ranks)
        return next(event for event in events if isinstance(event, Finished))
    with run.lock() as lock:
        queue.tail = run.commands()
        if run.checkpoints() and (stopped := checked(run, home, queue, overrides, on_event, ranks)):
            ranks.broadcast(False)  # the others wait to hear whether there is a data set
            return stopped
        for place in (run.path, run.checkpoint_directory, run.path / "live"):
            remove_staging(place)
        log = open_log(run)
        try:
            events = training_events(run, home, queue, overrides, on_live, ranks, lock.warnings)
            return drain(run, log, lock, events, on_event)
        finally:
            log.close()


def open_log(run: Run) -> EventLog:
    """The writing end of the run's log; `UserError` where it cannot be opened."""
    try:
        return run.log()
    except OSError as error:
        path = run.path / "events.jsonl"
        raise UserError(f"{path} cannot be written ({error.strerror}); make room, or allow writing.") from error


def checked(
    run: Run, home: Path, commands: CommandQueue, overrides: Overrides, on_event: OnEvent, ranks: Ranks
) -> Finished | None:
    """Check that a run with a checkpoint can be resumed; the answer to a stop that came meanwhile, else None.

    Nothing is logged: a refused resume leaves the run as it was. Raises `UserError` where it is refused.
    """
    checks = check_resume(run, home, overrides, ranks.world_size)
    with closing(checks):
        for event in checks:
            on_event(event)
            if commands.is_stop_requested():
                stopped = stopped_early(run, commands)
                on_event(stopped)
                return stopped
    return None


def drain(run: Run, log: EventLog, lock: RunLock, events: Generator[Event, None, None], on_event: OnEvent) -> Finished:
    """Log every event and pass it on; an error becomes a last `Finished` before it is raised.

    Where nothing was trained, a run that had ended before keeps that end as the last line of its log.
    """
    step, began, before = last_step(run), False, former_end(run)

    def log_end(end: Event) -> None:
        log.append(end)
        if before is not None and not began:
            log.append(before)

    try:
        with closing(events):
            for event in events:
                (log_end if isinstance(event, Finished) else log.append)(event)
                on_event(event)
                began = began or isinstance(event, Started)
                if isinstance(event, WHERE_IT_STANDS):
                    step = event.step
                if isinstance(event, Finished):
                    return event
                check_place(run, log, lock, step)
        raise RuntimeError("training ended without saying so")
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
        log_end(failure if before is None or began else Warned(step=step, message=f"not resumed: {reason}"))
        on_event(failure)
        if problem is None or problem is error:
            raise
        raise problem from error


def check_place(run: Run, log: EventLog, lock: RunLock, step: int) -> None:
    """Replace the event log and the lock file where somebody removed them. UserError where the whole run was removed or
    moved away, or where another process trains it since its lock was removed."""
    if log.lines.is_gone:
        if log.folder_is_gone:
            raise UserError(
                f"the folder of {run.name} was removed or moved away, so its training has ended; if it was moved, move "
                f"it back to {run.path} and resume it."
            )
        log.restart(step)
    with suppress(OSError):  # no room for a new lock file: the lock on the folder remains
        lock.renew()


def former_end(run: Run) -> Finished | None:
    """How the run ended before; None for one that was never trained, or that ended without saying so."""
    events = last_events(run.path / "events.jsonl")
    return events[-1] if events and isinstance(events[-1], Finished) else None


def to_user_error(error: BaseException) -> UserError | None:
    """What to tell the person who can mend this; None where it is a fault of ours."""
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
    newest = newest_state(run)
    changed = merge_overrides(newest.get("overrides", {}), overrides)
    config = resumed_config(run.config(), changed.items())
    check_checkpoints(run, config)
    check_world_size(config, home, ranks.world_size, newest)
    core_tasks = load_core_tasks(config, home)  # before the data, so that a missing bundle is reported at once
    dataset = yield from shared_dataset(config, home, commands, ranks, str(newest.get("data_fingerprint", "")))
    if dataset is None:
        yield stopped_early(run, commands)
        return
    if ranks.is_first:
        save_tokenizer(run, dataset)
    if message := memory_warning(config, dataset.tokenizer.vocab_size):
        yield Warned(step=last_step(run), message=message)
    state, is_restored = yield from restore_or_init(run, config, dataset)
    state.overrides = changed
    batch_plan = resolve_batch_plan(
        config,
        dataset.tokenizer.vocab_size,
        len(dataset.train),
        ranks.world_size,
        global_batch_size=state.global_batch_size,
        micro_batch=state.micro_batch,
    )
    state.global_batch_size = batch_plan.global_batch_size
    plan = resolve_plan(config, state, dataset, batch_plan, ranks)
    context = TrainingContext(config, state, plan, batch_plan, ranks, core_tasks, run=run, dataset=dataset)
    loss_fn, warning = settled_loss(context)
    on_live(LiveWeights(run.name, state, dataset.tokenizer, context.plan))
    yield started(context, is_restored)
    own = (warning, thread_warning(plan, ranks), unused_lr_warning(state.optimizer, config))
    for message in (*warnings, *dataset.warnings, *filter(None, own)):
        yield Warned(step=state.step, message=message)
    yield from Trainer(context, commands, loss_fn).events()


def shared_dataset(
    config: RunConfig, home: Path, commands: CommandQueue, ranks: Ranks, known: str
) -> Generator[Event, None, Dataset | None]:
    """The data set, or None when a stop came meanwhile. The first rank prepares it; the others find it done."""
    dataset = (yield from prepared(config, home, commands, known)) if ranks.is_first else None
    goes_on = ranks.broadcast(dataset is not None)
    if goes_on and not ranks.is_first:
        dataset = yield from prepared(config, home, commands, known)
    return dataset


def stopped_early(run: Run, commands: CommandQueue) -> Finished:
    stop = commands.requested_stop()
    reason = str(stop.arguments.get("reason", "asked to stop")) if stop else "asked to stop"
    command_id = stop.id if stop else ""
    return Finished(
        step=last_step(run), status="stopped", reason=f"{reason}, before the first step", command_id=command_id
    )


def settled_loss(context: TrainingContext) -> tuple[LossFn, str]:
    """The loss to train by, averaging over all ranks, and why it is not compiled ("" if it is as the plan says)."""
    batch_plan, ranks = context.batch_plan, context.ranks
    micro_batch = (batch_plan.global_batch_size // ranks.world_size // batch_plan.grad_accum_steps, batch_plan.seq_len)
    loss_fn, warning = build_loss_fn(context.state, context.plan, micro_batch)
    if warning:
        context.plan = replace(context.plan, compiled=False)
        context.state.plan = context.plan.as_json()
    return ranks.wrap(context.state.model, loss_fn), warning


def started(context: TrainingContext, restored: bool) -> Started:
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
        resumed_from=f"step-{context.state.step:08d}" if restored else "",
        changed=context.state.overrides,
    )
