"""Set up a training: data, tokenizer, a new or restored state, precision and threads, the loss function."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llm.config import RunConfig, resolve_model, resolve_seq_len
from llm.config.fit import step_bytes
from llm.data.tokens.dataset import Dataset
from llm.device import Plan, choose_device, choose_precision, choose_threads, make_plan
from llm.errors import UserError
from llm.events import Event, Saved, Warned
from llm.files import published_directory
from llm.limits import memory, swap_bytes, usable_cores
from llm.model.adapters import add_adapters
from llm.model.counts import parameters, state_bytes
from llm.optim import build_optimizer
from llm.optim.build import MakePlacement
from llm.optim.placement import Replicated, Sharded
from llm.run import Run
from llm.run.checkpoints import newest_step
from llm.run.shapes import check_checkpoint
from llm.run.states import state_and_config
from llm.tokenizer import load_tokenizer
from llm.training.batch_plan import BatchPlan
from llm.training.checkpoint import restore_state
from llm.training.distributed import LossFn, Ranks
from llm.training.objective import Objective
from llm.training.resume_checks import text_changed_error
from llm.training.state import TrainerState
from llm.training.step import to_device
from llm.weights import build_model

if TYPE_CHECKING:
    from llm.training.sharding import Sharding


def check_checkpoints(run: Run, config: RunConfig) -> None:
    """UserError unless a checkpoint's tensors fit the run's configuration and tokenizer. Runs before the text is read
    and a model is built, which in a run from an untrusted source can cost any amount of time and memory."""
    infos = run.checkpoints()
    if config.tune.lora_rank and not infos and not run.damaged_checkpoints():
        raise UserError(
            f"{run.name} has no model to add adapters to (tune.lora_rank); start it from a run: llm-workbench sft RUN."
        )
    if not infos or not (run.path / "tokenizer").is_dir():
        return
    vocab_size = load_tokenizer(run.path / "tokenizer").vocab_size
    problems = []
    for info in reversed(infos):
        try:
            check_checkpoint(info, config, vocab_size)
        except UserError as error:
            problems.append(str(error))
        else:
            return
    raise UserError(f"no checkpoint of {run.name} can be used: {problems[0]}")


def save_tokenizer(run: Run, dataset: Dataset) -> None:
    """Save the tokenizer in the run directory, which then holds all that a chat needs."""
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
    return max(0, newest_step(run.checkpoint_directory))


def new_state(config: RunConfig, vocab_size: int, ranks: Ranks | None = None) -> TrainerState:
    """The state at step 0 with a tokenizer of `vocab_size` ids: weights drawn from the run's seed, optimizer state of
    zeros. With `train.sharding` other than ddp each of several `ranks` holds its part of it."""
    model, ranks = build_model(config, vocab_size), ranks or Ranks()
    device, sharding = choose_device(config.train.device), None
    if ranks.world_size > 1 and config.train.sharding != "ddp":
        from llm.training.sharding import make_sharding, shard_model  # takes a second to import

        sharding = make_sharding(config.train.sharding, device, ranks.world_size, ranks.per_machine)
        shard_model(model, sharding, choose_precision(config.train.precision, device))
    model.to(device)
    model.init_weights(torch.Generator().manual_seed(config.train.seed))
    if config.tune.lora_rank:
        add_adapters(model, config.tune, vocab_size, config.train.seed)
    optimizer = build_optimizer(model, config, placement_of(ranks, sharding))
    return TrainerState(model, optimizer, sharding=sharding)


def placement_of(ranks: Ranks, sharding: Sharding | None) -> MakePlacement | None:
    """How ranks divide the work of Muon; None for one rank."""
    if ranks.world_size == 1:
        return None
    if sharding is None:
        return lambda shapes, batched: Replicated(ranks.rank, ranks.world_size, batched)
    return lambda shapes, batched: Sharded(sharding.group, sharding.rank, sharding.size, shapes, batched)


def restore_or_init(
    run: Run, config: RunConfig, dataset: Dataset, ranks: Ranks
) -> Generator[Event, None, tuple[TrainerState, bool]]:
    """The state of the newest intact checkpoint, or a new one at step 0; and whether it was restored."""
    state = new_state(config, dataset.tokenizer.vocab_size, ranks)
    is_restored = yield from restore_newest(run, state)
    if state.data_fingerprint not in ("", dataset.fingerprint):  # "": a fork that continues on another text
        raise text_changed_error(run.name, config)
    state.data_fingerprint = dataset.fingerprint
    return state, is_restored


def restore_newest(run: Run, state: TrainerState) -> Generator[Event, None, bool]:
    """Restore the newest intact checkpoint, with a warning for each damaged one; returns False if there is none.
    UserError if all are damaged, or have disappeared."""
    damaged = []
    unlisted = run.damaged_checkpoints()
    for info in reversed(run.checkpoints()):
        for step in sorted((step for step in unlisted if step > info.step), reverse=True):
            damaged.append(unlisted[step])
            yield Warned(step=step, message=f"skipping checkpoint {step}: {unlisted.pop(step)}")
        try:
            state_and_config(run, info)
            restore_state(state, info)
        except UserError as error:
            damaged.append(str(error))
            yield Warned(step=info.step, message=f"skipping checkpoint {info.step}: {error}")
        else:
            return True
    damaged += unlisted.values()
    if damaged:
        raise UserError(f"no checkpoint of {run.name} is intact: {damaged[0]}")
    if parent := run.info().get("parent"):
        raise UserError(f"{run.name} has lost the weights of {parent}, from which it starts; fork {parent} again.")
    if any(isinstance(event, Saved) and event.kind == "checkpoint" for event in run.events()):
        raise UserError(f"{run.name} was saved, but its checkpoints are gone; restore them, or start a new run.")
    return False


def resolve_plan(config: RunConfig, state: TrainerState, dataset: Dataset, batch_plan: BatchPlan, ranks: Ranks) -> Plan:
    """Resolve precision and threads. A resumed run keeps those of its checkpoint."""
    plan = make_plan(config.train, state.plan)
    if state.sharding is not None:
        plan = replace(plan, compiled=False)  # only the parts of blocks could be compiled
    if plan.precision == "fp16" and state.plan is None:
        state.loss_scale = 2.0**16
    if plan.threads == 0 and ranks.world_size > 1:
        plan = replace(plan, threads=max(1, usable_cores() // ranks.per_machine))
    elif plan.threads == 0:
        rows = batch_plan.micro_batch()
        flops = batch_plan.flops_per_token * rows * batch_plan.seq_len
        length = min(batch_plan.seq_len + 1, len(dataset.train))
        window = torch.from_numpy(dataset.train.read(0, length).astype("int64")).repeat(rows, 1)
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


def check_memory(config: RunConfig, vocab_size: int, ranks: Ranks) -> None:
    """UserError where weights, gradients and optimizer state alone exceed all memory of a CPU. Runs before anything is
    read or built, which for a width of 10,000,000 takes a minute."""
    if choose_device(config.train.device) != "cpu" or (ranks.world_size > 1 and config.train.sharding != "ddp"):
        return
    model = resolve_model(config.model, vocab_size)
    needed, total = state_bytes(model, config.optim.kind, config.tune), memory().total + swap_bytes()
    if needed > total:
        raise UserError(
            f"a model of {parameters(model):,} parameters ({model.n_layer} layers, width {model.d_model}) cannot train "
            f"here: its weights, gradients and optimizer state take {needed / 1e9:,.1f} GB, and there are "
            f"{total / 1e9:,.1f} GB of memory; lower model.d_model, model.n_layer, model.d_ff or the vocabulary, "
            "or use train --fit."
        )


def memory_warning(config: RunConfig, vocab_size: int) -> str:
    """A warning where a step on the CPU needs more memory than is available, else "". Not an error, since the estimate
    is rough; but a process that the system kills for its memory cannot explain why."""
    if choose_device(config.train.device) != "cpu":
        return ""
    model = resolve_model(config.model, vocab_size)
    needed, here = step_bytes(config, model, resolve_seq_len(config.train, model)), memory()
    if needed <= here.available:
        return ""
    limit = f" within {here.limit}" if here.limit else ""
    return (
        f"training needs about {needed / 1e6:,.0f} MB and {here.available / 1e6:,.0f} MB are free{limit}, so the "
        "system may kill it; lower train.batch_size or train.seq_len, or use train --fit."
    )


def fewer_threads_warning(wanted: int, plan: Plan) -> str:
    """A warning where a run uses fewer threads than the configuration or a checkpoint says, else ""."""
    if plan.device != "cpu" or wanted <= plan.threads:
        return ""
    here = f"{plan.threads} processor{'s' * (plan.threads > 1)}"
    return f"the run was to use {wanted:,} threads, and this machine has {here}: results differ by rounding."


def thread_warning(plan: Plan, ranks: Ranks) -> str:
    """A warning where a run uses more threads than the process may use processors, else ""."""
    cores = usable_cores()
    if plan.device != "cpu" or plan.threads * ranks.per_machine <= max(cores, ranks.per_machine):
        return ""
    return (
        f"the run keeps its {plan.threads} threads, since results depend on their number, but may use only "
        f"{cores} processor{'s' * (cores > 1)}; steps are slow until it gets more."
    )


def build_loss_fn(state: TrainerState, plan: Plan, shape: tuple[int, int], objective: Objective) -> tuple[LossFn, str]:
    """The loss function for arrays of `shape`, compiled if the plan says so; and a warning if compilation failed, else
    ""."""
    state.model.train()
    if not plan.compiled or not objective.is_compiled:
        return objective.loss_fn, ""
    try:
        compiled: LossFn = torch.compile(objective.loss_fn, dynamic=False)
        probe = torch.zeros(shape, dtype=torch.int64, device=plan.device)
        with plan.autocast():
            loss = compiled(*([probe] * objective.arrays))
        loss.backward()  # compiles the backward pass
    except Exception as error:  # noqa: BLE001 - a compiler may raise anything, and eager training works
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return objective.loss_fn, f"torch.compile failed, training continues without it: {reason}"
    finally:
        state.optimizer.zero_grad()
    return compiled, ""
