"""torch.compile on this machine's CPU, with its C++ compiler: the same training, to rounding."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from llm.events import Started, Warned
from llm.model.kernels import FUSED
from llm.run import Run
from llm.training.run import run_training
from tests.model.models_for_tests import relative_error

from .conftest import MakeRun
from .test_resume import losses

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile on a CPU needs a C++ compiler"
)


def started(run: Run) -> Started:
    return next(event for event in run.events() if isinstance(event, Started))


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(make_run: MakeRun, tmp_path: Path) -> None:
    settings = {"train__steps": "20", "model__dropout": "0", "data__order": "random"}
    eager, compiled = make_run("eager", **settings), make_run("compiled", **settings, train__compile="on")
    run_training(eager, tmp_path)
    run_training(compiled, tmp_path)
    said = [event.message for event in compiled.events() if isinstance(event, Warned)]
    assert started(compiled).compiled and not started(eager).compiled, said
    assert not said
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-4)
    assert compiled.checkpoint().metrics["validation_loss"] == pytest.approx(
        eager.checkpoint().metrics["validation_loss"], rel=1e-4
    )
    assert compiled.checkpoint("7").path.joinpath("model.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])], ids=str
)
def test_a_compiled_run_can_be_stopped_and_continues_compiled(
    make_run: MakeRun, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run by torch, which takes seconds; and as it is used, compiled to C++, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    run = make_run("resumed", train__compile="on", train__steps="6", schedule__kind="constant")
    whole = make_run("whole", train__compile="on", train__steps="12", schedule__kind="constant")
    run_training(run, tmp_path)
    run_training(run, tmp_path, overrides=(("train.steps", "12"),))
    run_training(whole, tmp_path)
    assert [event.compiled for event in run.events() if isinstance(event, Started)] == [True, True]
    assert losses(run) == losses(whole), "compiled code is repeatable too"


def test_the_gradient_of_an_embedding_is_one_operation_for_the_compiler() -> None:
    """It takes apart what it knows, and adds the parts in no fixed order."""
    tokens, weight = torch.tensor([1, 2, 2]), torch.randn(5, 3, requires_grad=True)
    compiled = torch.compile(FUSED.embedding, backend="aot_eager")
    with torch.profiler.profile() as profile:
        compiled(tokens, weight).sum().backward()
    assert "llm_workbench::embedding_gradient" in {event.key for event in profile.key_averages()}


@needs_compiler
@pytest.mark.slow
def test_the_gradient_of_a_compiled_embedding_is_the_same_at_every_call_by_two_threads() -> None:
    """Compiled as torch has it, thirty calls gave 17 gradients that differed in their last bits (torch 2.13.0)."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 64, (8, 128), generator=generator)
    weight = torch.randn(256, 64, generator=generator).requires_grad_()
    factors = torch.randn(8, 128, 64, generator=generator)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(FUSED.embedding(tokens, weight)) * factors).sum()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compiled = torch.compile(loss, dynamic=False)
        first, *others = (torch.autograd.grad(compiled(weight), weight)[0] for _ in range(30))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, other) for other in others)
    (exact,) = torch.autograd.grad(loss(weight.double()), weight)
    assert relative_error(first.double(), exact.double()) < 1e-5


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_by_two_threads_is_repeatable(make_run: MakeRun, tmp_path: Path) -> None:
    """Batches so large that the threads share them: before, three runs of four steps had three sets of weights."""
    shape = {"model__context": "128", "model__d_model": "64", "train__batch_size": "8", "train__accumulation": "1"}
    weights = set()
    for name in ("first", "second", "third"):
        run = make_run(name, **shape, train__compile="on", train__threads="2", train__steps="4", evaluate__every="0")
        run_training(run, tmp_path)
        assert started(run).compiled
        weights.add((run.checkpoint().path / "model.safetensors").read_bytes())
    assert len(weights) == 1
