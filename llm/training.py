"""Train a run directory: prepare its data, build or restore its state, drain the trainer into its event log.

The workbench's thread, the command line and `python -m llm.train RUN_DIR` all call `run_training`.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import torch

from llm.checkpoint import TrainerState, build_model, restore_state
from llm.commands import CommandQueue
from llm.config import RunConfig, diff, fields_of, with_overrides
from llm.core.bundle import Task, bundle_folder, load_bundle
from llm.data.prepare import Dataset, prepare
from llm.device import Plan, choose_device, choose_threads, make_plan, usable_cores
from llm.distributed import LossOf, Ranks
from llm.errors import ConfigError, Problem, UserError
from llm.events import Event, Finished, Saved, Started, Warned
from llm.files import published_directory, remove_staging, write_atomic
from llm.length import Length, run_length
from llm.live import LiveWeights
from llm.optim import build_optimizer
from llm.run import EventLog, Run
from llm.run.checkpoints import list_checkpoints
from llm.step import to_device
from llm.trainer import Trainer

OnEvent = Callable[[Event], None]


def run_training(
    run: Run,
    home: Path,
    *,
    commands: CommandQueue | None = None,
    overrides: tuple[tuple[str, str], ...] = (),
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
    with run.lock():
        queue.tail = run.commands()
        for place in (run.path, run.checkpoint_directory, run.path / "live"):
            remove_staging(place)
        log = run.log()
        try:
            return drain(run, log, training_events(run, home, queue, overrides, on_live, ranks), on_event)
        finally:
            log.close()


def drain(run: Run, log: EventLog, events: Generator[Event, None, None], on_event: OnEvent) -> Finished:
    """Log every event and pass it on; an error becomes a last `Finished` before it is raised."""
    step = last_step(run)
    try:
        with closing(events):
            for event in events:
                log.append(event)
                on_event(event)
                step = getattr(event, "step", step)
                if isinstance(event, Finished):
                    return event
        raise RuntimeError("training ended without saying so")
    except KeyboardInterrupt:
        log.append(Finished(step=step, status="stopped", reason="interrupted again before it was saved"))
        raise
    except BaseException as error:
        if not isinstance(error, UserError):
            with suppress(OSError):  # a full disk must not hide what happened
                write_atomic(run.path / "crash.txt", traceback.format_exc().encode())
        failure = Finished(step=step, status="failed", reason=str(error) or type(error).__name__)
        log.append(failure)
        on_event(failure)
        raise


def training_events(
    run: Run,
    home: Path,
    commands: CommandQueue,
    overrides: tuple[tuple[str, str], ...],
    on_live: Callable[[LiveWeights], None],
    ranks: Ranks,
) -> Generator[Event, None, None]:
    """Everything from preparing the data to the end. The first rank prepares; the others wait, and find it done."""
    frozen = run.config()
    config = resumed_config(frozen, overrides)
    due_core_tasks(config, home)  # a bundle that is missing is told before long work begins
    dataset = (yield from prepared(config, home, commands)) if ranks.is_first else None
    goes_on = ranks.share(dataset is not None)
    if goes_on and not ranks.is_first:
        dataset = yield from prepared(config, home, commands)
    if dataset is None:
        stop = commands.stop_waiting()
        reason = str(stop.arguments.get("reason", "asked to stop")) if stop else "asked to stop"
        yield Finished(
            step=last_step(run),
            status="stopped",
            reason=f"{reason}, before the first step",
            command_id=stop.id if stop else "",
        )
        return
    if ranks.is_first:
        keep_tokenizer(run, dataset)
    state = new_state(config, dataset)
    restored = yield from restore_newest(run, state)
    if state.data_fingerprint not in ("", dataset.fingerprint):  # a fork that goes on with another text has none yet
        raise UserError(
            f"the text of {run.name} has changed since it was trained (corpus {config.data.corpus}); "
            "bring back the old text, or start a new run."
        )
    state.data_fingerprint = dataset.fingerprint
    state.overrides |= dict(overrides)
    config = resumed_config(frozen, tuple(state.overrides.items()))
    core_tasks = due_core_tasks(config, home)
    length = run_length(config, dataset.tokenizer.vocab_size, len(dataset.train), ranks.count)

    plan = settle_plan(config, state, dataset, length, ranks)
    if state.accumulation:
        length = replace(length, accumulation=state.accumulation)
    micro_batch = (length.rows // ranks.count // length.accumulation, length.seq_len)
    loss_of, warning = training_loss(state, plan, micro_batch)
    if warning:
        plan = replace(plan, compiled=False)
        state.plan = plan.as_json()
    loss_of = ranks.wrap(state.model, loss_of)
    on_live(LiveWeights(run.name, state, dataset.tokenizer, plan))
    yield Started(
        step=state.step,
        total_steps=length.steps,
        parameters=length.parameters,
        tokens_per_step=length.tokens_per_step,
        device=plan.device,
        precision=plan.precision,
        threads=plan.threads,
        compiled=plan.compiled,
        pid=os.getpid(),
        host=socket.gethostname(),
        resumed_from=f"step-{state.step:08d}" if restored else "",
        changed=state.overrides,
    )
    for message in (*dataset.warnings, *filter(None, [warning])):
        yield Warned(step=state.step, message=message)
    yield from Trainer(run, config, state, dataset, plan, length, commands, loss_of, core_tasks, ranks).events()


def due_core_tasks(config: RunConfig, home: Path) -> tuple[Task, ...]:
    """The tasks of the CORE metric, where the run measures it."""
    return load_bundle(bundle_folder(config.evaluate.core_path, home)) if config.evaluate.core_every else ()


def prepared(config: RunConfig, home: Path, commands: CommandQueue) -> Generator[Event, None, Dataset | None]:
    """The data set of `config`, made if need be; None when a stop came meanwhile."""
    steps = prepare(config, home)
    try:
        while not commands.stop_is_waiting():
            yield next(steps)
    except StopIteration as end:
        dataset: Dataset = end.value
        return dataset
    steps.close()
    return None


def resumed_config(frozen: RunConfig, overrides: tuple[tuple[str, str], ...]) -> RunConfig:
    """`frozen` with `overrides`; a `ConfigError` names every field that a run may not change on resuming."""
    config = with_overrides(frozen, overrides)
    safe = {field.path for field in fields_of(RunConfig) if field.safe}
    problems = [
        Problem(path, f"cannot change from {before} to {after} in a run that has begun; fork the run instead")
        for path, before, after in diff(frozen, config)
        if path not in safe
    ]
    if problems:
        raise ConfigError(problems)
    return config


def keep_tokenizer(run: Run, dataset: Dataset) -> None:
    """Put the tokenizer beside the weights, so that the run can be copied away and talked to."""
    directory = run.path / "tokenizer"
    if directory.exists():
        return
    try:
        with published_directory(directory) as staging:
            dataset.tokenizer.save(staging)
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error.strerror}); make room, then resume the run.") from error


def last_step(run: Run) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max((info.step for info in list_checkpoints(run.checkpoint_directory)), default=0)


def new_state(config: RunConfig, dataset: Dataset) -> TrainerState:
    """Step 0: weights drawn from the run's seed by a generator of their own, empty optimiser state."""
    model = build_model(config, dataset.tokenizer.vocab_size).to(choose_device(config.train.device))
    model.init_weights(torch.Generator().manual_seed(config.train.seed))
    return TrainerState(model, build_optimizer(model, config))


def restore_newest(run: Run, state: TrainerState) -> Generator[Event, None, bool]:
    """Bring back the newest checkpoint that is whole; a damaged one is named, and the one before is tried."""
    damaged = []
    for info in reversed(run.checkpoints()):
        try:
            restore_state(state, info)
        except UserError as error:
            damaged.append(str(error))
            yield Warned(step=info.step, message=f"checkpoint {info.step} is passed over: {error}")
        else:
            return True
    if damaged:
        raise UserError(f"no checkpoint of {run.name} is whole: {damaged[0]}")
    if parent := run.info().get("parent"):
        raise UserError(f"{run.name} has lost the weights it took from {parent}; fork {parent} again.")
    if any(isinstance(event, Saved) and event.kind == "checkpoint" for event in run.events()):
        raise UserError(f"{run.name} was saved, but its checkpoints are gone; bring them back, or start a new run.")
    return False


def settle_plan(config: RunConfig, state: TrainerState, dataset: Dataset, length: Length, ranks: Ranks) -> Plan:
    """Resolve precision and threads; choices that a checkpoint brought stay."""
    plan = make_plan(config.train, state.plan)
    if plan.precision == "fp16" and state.plan is None:
        state.loss_scale = 2.0**16
    if plan.threads == 0 and ranks.count > 1:
        plan = replace(plan, threads=max(1, usable_cores() // ranks.per_machine))
    elif plan.threads == 0:
        rows = config.train.batch_size
        flops = length.flops_per_token * rows * length.seq_len
        window = torch.from_numpy(dataset.train.read(0, length.seq_len + 1).astype("int64")).repeat(rows, 1)
        inputs, targets = (to_device(part.numpy(), plan.device) for part in (window[:, :-1], window[:, 1:]))

        def probe() -> None:
            with plan.autocast():
                loss = state.model.loss(inputs, targets)
            loss.backward()
            state.optimizer.zero_grad()

        plan = replace(plan, threads=choose_threads(probe, flops) if plan.device == "cpu" else 1)
    torch.set_num_threads(plan.threads)
    state.plan = plan.as_json()
    return plan


def training_loss(state: TrainerState, plan: Plan, shape: tuple[int, int]) -> tuple[LossOf, str]:
    """The function from (inputs, targets) of `shape` to the loss, compiled if the plan says so, or why it is not."""
    state.model.train()
    if not plan.compiled:
        return state.model.loss, ""
    try:
        compiled: LossOf = torch.compile(state.model.loss, dynamic=False)
        probe = torch.zeros(shape, dtype=torch.int64, device=plan.device)
        with plan.autocast():
            loss = compiled(probe, probe)
        loss.backward()  # which is compiled only now
    except Exception as error:  # noqa: BLE001 - whatever a compiler may raise, eager training still works
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return state.model.loss, f"torch.compile failed, training goes on without it: {reason}"
    finally:
        state.optimizer.zero_grad()
    return compiled, ""
