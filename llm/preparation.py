"""What a training needs before its first step: data, tokenizer, a state drawn or restored, and the resolved choices."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from llm.checkpoint import TrainerState, build_model, restore_state
from llm.commands import CommandQueue
from llm.config import RunConfig, resumed_config
from llm.config.overrides import Overrides, added
from llm.core.bundle import Task, bundle_folder, load_bundle
from llm.data.prepare import Dataset, prepare
from llm.data.sources import StreamSource, open_source
from llm.data.streaming import check_streams, resolve_streams
from llm.device import Plan, choose_device, choose_threads, make_plan
from llm.distributed import LossOf, Ranks
from llm.environment import usable_cores
from llm.errors import UserError
from llm.events import Event, Saved, Warned
from llm.files import published_directory
from llm.length import Length, shared_rows
from llm.optim import build_optimizer
from llm.run import Run
from llm.run.checkpoints import list_checkpoints, read_state
from llm.step import to_device


def config_to_go_on(run: Run, overrides: Overrides) -> RunConfig:
    """The configuration a run goes on with: that of its newest checkpoint, with `overrides`, which must be safe."""
    return resumed_config(run.config(), added(kept_overrides(run), overrides).items())


def kept_overrides(run: Run) -> dict[str, str]:
    """What the newest checkpoint that can be read says differs from `run.toml`."""
    for info in reversed(run.checkpoints()):
        with suppress(UserError):  # a damaged one is named, and passed over, when it comes to restoring it
            return dict(read_state(info).get("overrides", {}))
    return {}


def check_shares(run: Run, config: RunConfig, home: Path, ranks: Ranks) -> None:
    """ConfigError where `ranks` cannot share a step, or a streamed text: before a new run's data are prepared."""
    if run.checkpoints():
        return  # these know what was shared at the first step, and the data are there
    rows, _ = shared_rows(config, ranks.count)
    source = open_source(config, home) if config.data.order == "stream" else None
    if isinstance(source, StreamSource):
        check_streams(source.stream, rows, resolve_streams(config.data.streams, None, ranks.count), ranks.count)


def due_core_tasks(config: RunConfig, home: Path) -> tuple[Task, ...]:
    """The tasks of the CORE metric, where the run measures it."""
    return load_bundle(bundle_folder(config.evaluate.core_path, home)) if config.evaluate.core_every else ()


def known_fingerprint(run: Run) -> str:
    """The data set that the newest checkpoint which can be read was trained on; "" where there is none."""
    for info in reversed(run.checkpoints()):
        with suppress(UserError, AttributeError):
            return str(read_state(info).get("data_fingerprint", ""))
    return ""


def prepared(
    config: RunConfig, home: Path, commands: CommandQueue, known: str = ""
) -> Generator[Event, None, Dataset | None]:
    """The data set of `config`, made if need be; None when a stop came meanwhile. `known` as in `prepare`."""
    steps = prepare(config, home, known)
    try:
        while not commands.stop_is_waiting():
            yield next(steps)
    except StopIteration as end:
        dataset: Dataset = end.value
        return dataset
    steps.close()
    return None


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


def restored_state(
    run: Run, config: RunConfig, dataset: Dataset, overrides: Overrides
) -> Generator[Event, None, tuple[TrainerState, bool]]:
    """The state to go on from, and whether a checkpoint gave it; `overrides` are added to those it knew."""
    state = new_state(config, dataset)
    restored = yield from restore_newest(run, state)
    if state.data_fingerprint not in ("", dataset.fingerprint):  # a fork that goes on with another text has none yet
        raise UserError(
            f"the text of {run.name} has changed since it was trained (corpus {config.data.corpus}); "
            "bring back the old text, or start a new run."
        )
    state.data_fingerprint = dataset.fingerprint
    state.overrides = added(state.overrides, overrides)
    return state, restored


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
