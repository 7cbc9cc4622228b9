"""torch.compile on this machine's CPU, with its C++ compiler: the same training, to rounding."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from llm.events import Started, Warned
from llm.run import Run
from llm.training import run_training

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
def test_a_compiled_run_can_be_stopped_and_goes_on_compiled(
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
    assert losses(run) == losses(whole), "one thread: compiled code is repeatable too"
