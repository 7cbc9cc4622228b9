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
from llm.config.overrides import Overrides
from llm.data.tokens.prepare import Dataset
from llm.errors import UserError
from llm.events import Event, Finished, RolledBack, Skipped, Started, StepLogged, Warned
from llm.files import remove_staging, write_atomic
from llm.optim import idle_rate
from llm.run import EventLog, Run
from llm.run.lock import RunLock
from llm.run.log import last_events
from llm.training.batch_plan import run_length
from llm.training.commands import CommandQueue
from llm.training.context import Job
from llm.training.distributed import LossOf, Ranks
from llm.training.live import LiveWeights
from llm.training.loop import Trainer
from llm.training.resume_checks import check_resume, check_shares, config_to_go_on, due_core_tasks, newest_state
from llm.training.setup import (
    check_checkpoints,
    keep_tokenizer,
    last_step,
    memory_warning,
    prepared,
    restored_state,
    settle_plan,
    threads_warning,
    training_loss,
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
            ranks.share(False)  # the others wait to hear whether there is a data set
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
    checks = check_resume(run, home, overrides, ranks.count)
    with closing(checks):
        for event in checks:
            on_event(event)
            if commands.stop_is_waiting():
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
        problem = mendable(error)
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
        log.begin_anew(step)
    with suppress(OSError):  # no room for a new lock file: the lock on the folder remains
        lock.renew()


def former_end(run: Run) -> Finished | None:
    """How the run ended before; None for one that was never trained, or that ended without saying so."""
    events = last_events(run.path / "events.jsonl")
    return events[-1] if events and isinstance(events[-1], Finished) else None


def mendable(error: BaseException) -> UserError | None:
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
    """Everything from preparing the data to the end; `warnings` are logged once the training has started."""
    config = config_to_go_on(run, overrides)
    check_checkpoints(run, config)
    newest = newest_state(run)
    check_shares(config, home, ranks.count, newest)
    due_core_tasks(config, home)  # a bundle that is missing is told before long work begins
    dataset = yield from shared_dataset(config, home, commands, ranks, str(newest.get("data_fingerprint", "")))
    if dataset is None:
        yield stopped_early(run, commands)
        return
    if ranks.is_first:
        keep_tokenizer(run, dataset)
    if message := memory_warning(config, dataset.tokenizer.vocab_size):
        yield Warned(step=last_step(run), message=message)
    state, restored = yield from restored_state(run, config, dataset, overrides)
    config = resumed_config(run.config(), state.overrides.items())
    core_tasks = due_core_tasks(config, home)
    length = run_length(
        config,
        dataset.tokenizer.vocab_size,
        len(dataset.train),
        ranks.count,
        rows=state.rows,
        micro_batch=state.micro_batch,
    )
    state.rows = length.rows
    plan = settle_plan(config, state, dataset, length, ranks)
    job = Job(run, config, state, dataset, plan, length, core_tasks, ranks)
    loss_of, warning = settled_loss(job)
    on_live(LiveWeights(run.name, state, dataset.tokenizer, job.plan))
    yield started(job, restored)
    own = (warning, threads_warning(plan, ranks), idle_rate(state.optimizer, config))
    for message in (*warnings, *dataset.warnings, *filter(None, own)):
        yield Warned(step=state.step, message=message)
    yield from Trainer(job, commands, loss_of).events()


def shared_dataset(
    config: RunConfig, home: Path, commands: CommandQueue, ranks: Ranks, known: str
) -> Generator[Event, None, Dataset | None]:
    """The data set, or None when a stop came meanwhile. The first rank prepares it; the others find it done."""
    dataset = (yield from prepared(config, home, commands, known)) if ranks.is_first else None
    goes_on = ranks.share(dataset is not None)
    if goes_on and not ranks.is_first:
        dataset = yield from prepared(config, home, commands, known)
    return dataset


def stopped_early(run: Run, commands: CommandQueue) -> Finished:
    stop = commands.stop_waiting()
    reason = str(stop.arguments.get("reason", "asked to stop")) if stop else "asked to stop"
    command_id = stop.id if stop else ""
    return Finished(
        step=last_step(run), status="stopped", reason=f"{reason}, before the first step", command_id=command_id
    )


def settled_loss(job: Job) -> tuple[LossOf, str]:
    """The loss to train by, averaging over all ranks, and why it is not compiled ("" if it is as the plan says)."""
    length, ranks = job.length, job.ranks
    micro_batch = (length.rows // ranks.count // length.accumulation, length.seq_len)
    loss_of, warning = training_loss(job.state, job.plan, micro_batch)
    if warning:
        job.plan = replace(job.plan, compiled=False)
        job.state.plan = job.plan.as_json()
    return ranks.wrap(job.state.model, loss_of), warning


def started(job: Job, restored: bool) -> Started:
    return Started(
        step=job.state.step,
        total_steps=job.length.steps,
        parameters=job.length.parameters,
        tokens_per_step=job.length.tokens_per_step,
        device=job.plan.device,
        precision=job.plan.precision,
        threads=job.plan.threads,
        compiled=job.plan.compiled,
        pid=os.getpid(),
        host=socket.gethostname(),
        resumed_from=f"step-{job.state.step:08d}" if restored else "",
        changed=job.state.overrides,
    )
