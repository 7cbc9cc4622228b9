"""Several ranks: the same run as one, to rounding, in real processes; under torchrun where one of them dies."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from llm.config import RunConfig, with_overrides
from llm.config.resolve import resolve_model
from llm.device import Plan
from llm.errors import ConfigError, WrongUse
from llm.events import StepLogged
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from llm.run.checkpoints import MODEL
from llm.training.batch_plan import BatchPlan, resolve_batch_plan, resolve_batch_size
from llm.training.context import StepContext
from llm.training.distributed import LossModule, choose_backend
from llm.training.run import run_training
from llm.training.state import TrainerState
from llm.training.step import take_step
from tests.forking import complete_on_ranks

from .conftest import MakeRun
from .ranks_for_tests import SETTINGS
from .test_resume import losses
from .test_unsaved import without_room


def test_two_ranks_train_as_one_and_a_run_may_change_their_number(make_run: MakeRun, tmp_path: Path) -> None:
    """Two ranks, then one, then two again, where only the first ranks decided what a step is: the windows go on, and
    so do the losses of one rank that had as many rows from the beginning, training and validation."""
    plain = {"model__dropout": "0", "evaluate__at_start": "false", "schedule__kind": "constant"}
    alone = make_run("alone", **plain, train__accumulation="2", train__steps="12")
    changing = make_run("changing", **plain, train__accumulation="1", train__steps="4")
    run_training(alone, tmp_path)
    for ranks, steps in ((2, "4"), (1, "8"), (2, "12")):
        if ranks == 1:
            run_training(changing, tmp_path, overrides=(("train.steps", steps),))
            continue
        for ended in complete_on_ranks(ranks, str(changing.path), "--train.steps", steps):
            assert ended.returncode == 0, ended.stderr
    steps_logged = [event for event in changing.events() if isinstance(event, StepLogged)]
    assert [event.tokens_seen for event in steps_logged] == [4 * 16 * step for step in range(1, 13)]
    assert losses(changing) == pytest.approx(losses(alone), rel=1e-3)
    together = {step: loss for step, loss in losses(changing).items() if step <= 4}
    assert together == pytest.approx({step: losses(alone)[step] for step in together}, rel=1e-4)
    assert changing.checkpoint().metrics["validation_loss"] == pytest.approx(
        alone.checkpoint().metrics["validation_loss"], rel=1e-3
    )
    message = "the 4 sequences per step this run started with cannot be divided evenly among 4 processes"
    with pytest.raises(ConfigError, match=message):
        resolve_batch_plan(changing.config(), 257, 10_000, world_size=4, global_batch_size=4)


@pytest.mark.slow
def test_a_run_moves_from_a_thread_to_a_process_to_two_ranks_and_back(make_run: MakeRun, tmp_path: Path) -> None:
    """Bit for bit while the number of ranks stays the same, and to rounding after it has changed."""
    plain = {"train__batch_size": "2", "train__accumulation": "2", "model__dropout": "0", "evaluate__every": "0"}
    plain |= {
        "evaluate__at_start": "false",
        "sample__every": "0",
        "checkpoint__every": "3",
        "schedule__kind": "constant",
    }
    resting, moving = make_run("resting", **plain, train__steps="12"), make_run("moving", **plain, train__steps="3")
    run_training(resting, tmp_path)
    run_training(moving, tmp_path)
    for ranks, steps in ((1, "6"), (2, "9")):
        for ended in complete_on_ranks(ranks, str(moving.path), "--train.steps", steps):
            assert ended.returncode == 0, ended.stderr
    run_training(moving, tmp_path, overrides=(("train.steps", "12"),))
    for step in range(3, 13, 3):
        one, other = (load_file(run.checkpoint(str(step)).path / MODEL) for run in (resting, moving))
        assert step > 6 or all(torch.equal(one[name], other[name]) for name in one)
        assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert losses(moving) == pytest.approx(losses(resting), rel=1e-4)


def test_a_micro_batch_that_was_halved_is_shared_by_its_size() -> None:
    config = with_overrides(RunConfig(), [("train.batch_size", "4"), ("train.accumulation", "2")])
    assert resolve_batch_size(config, 1) == (8, 2)
    assert resolve_batch_size(config, 1, global_batch_size=8, micro_batch=2) == (8, 4)
    assert resolve_batch_size(config, 2, global_batch_size=8, micro_batch=2) == (8, 2)
    assert resolve_batch_size(config, 8, global_batch_size=8, micro_batch=1) == (8, 1)
    with pytest.raises(ConfigError, match=r"among 3 processes in micro-batches of 2; use a number .* divides 4"):
        resolve_batch_size(config, 3, global_batch_size=8, micro_batch=2)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "backend"),
    [("auto", 0, 2, "gloo"), ("cpu", 4, 2, "gloo"), ("auto", 4, 4, "nccl"), ("cuda", 2, 2, "nccl")],
)
def test_the_backend_follows_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, processes: int, backend: str
) -> None:
    pretend_gpus(monkeypatch, gpus)
    assert choose_backend(device, processes) == backend


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda:0", 4, "cuda:0 is one device, which several processes cannot share; set cuda or cpu"),
        ("auto", 1, "2 processes cannot share the GPUs of this machine, of which there are 1; start 1, or set"),
        ("cuda", 0, "cuda is not available on this machine"),
    ],
)
def test_ranks_that_have_no_device_each_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, message: str
) -> None:
    pretend_gpus(monkeypatch, gpus)
    with pytest.raises(WrongUse, match=message):
        choose_backend(device, 2)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_gradients_are_reduced_once_a_step(tmp_path: Path) -> None:
    config = with_overrides(
        RunConfig(),
        [("model.n_layer", "1"), ("model.d_model", "12"), ("model.n_head", "2"), ("model.context", "8")],
    )
    model = Transformer(resolve_model(config.model, 31))
    model.init_weights(torch.Generator().manual_seed(1))
    state = TrainerState(model, build_optimizer(model, config))
    context = StepContext(config, state, Plan("cpu", "fp32", 1, False), BatchPlan(3, 8, 8, 4, 0.0, 0))
    reductions = []
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(LossModule(model, model.loss))

        def count(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            reductions.append(bucket.index())
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        wrapped.register_comm_hook(None, count)
        tokens = torch.randint(0, 31, (8, 9)).numpy()
        for _ in range(3):
            take_step(context, (tokens[:, :-1], tokens[:, 1:]), wrapped)
    finally:
        dist.destroy_process_group()
    assert len(reductions) == 3 * len(set(reductions)), "as many reductions of each bucket as steps, not micro-batches"


def test_tokens_that_ranks_cannot_share_evenly_are_refused() -> None:
    config = with_overrides(
        RunConfig(),
        [("train.batch_size", "2"), ("model.context", "16"), ("train.total_batch_tokens", str(2 * 16 * 3))],
    )
    assert resolve_batch_plan(config, 300, 10_000, world_size=3).grad_accum_steps == 1
    with pytest.raises(ConfigError, match="cannot be divided evenly among 2 processes"):
        resolve_batch_plan(config, 300, 10_000, world_size=2)


def test_of_several_ranks_none_finishes_what_the_first_could_not_save(make_run: MakeRun, small_disk: Path) -> None:
    run = make_run("full", **SETTINGS | {"train__steps": "4", "checkpoint__every": "0"})
    without_room(run, small_disk)
    for ended in complete_on_ranks(2, str(run.path)):
        assert ended.returncode == 1 and "step 4 of full could not be saved" in ended.stderr
    assert run.status().name == "failed"
