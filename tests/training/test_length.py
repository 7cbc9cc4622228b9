"""A length in minutes: the measurement chooses the steps, and nothing else about the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.config import load_preset, with_overrides
from llm.events import Event, Progress, Started, StepLogged
from llm.run.checkpoints import read_state
from llm.training.batch_plan import TRAINING_TIME_SHARE, resolve_batch_plan
from llm.training.run import run_training

from .conftest import MakeRun
from .test_resume import StopAfter, assert_same_end

MINUTES = {"train.steps": "0", "train.minutes": "0.005", "optim.kind": "muon"}


def test_minutes_choose_the_steps_and_change_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    """Interrupted or not, the weights are those of a run whose configuration states the same number of steps."""
    timed, events = make_run("timed", **MINUTES), list[Event]()
    while run_training(timed, tmp_path, commands=StopAfter(9), on_event=events.append).status == "stopped":
        pass
    lengths = {event.total_steps for event in events if isinstance(event, Started)}
    (steps,) = lengths
    state = read_state(timed.checkpoint())
    assert (
        sum(event.stage.startswith("Measuring") and not event.done for event in events if isinstance(event, Progress))
        == 1
    )
    plain = make_run("plain", **MINUTES | {"train.steps": str(steps), "train.minutes": "0"})
    run_training(plain, tmp_path)
    assert_same_end(plain, timed)
    plan = resolve_batch_plan(timed.config(), 257, 1, flops_per_second=state["flops_per_second"])
    assert plan.steps == steps
    flops = plan.tokens_per_step * plan.flops_per_token
    assert steps == pytest.approx(steps_in(0.005, state["flops_per_second"] / flops), abs=0.51)


def steps_in(minutes: float, steps_per_second: float) -> float:
    """Before rounding; at least one, which is all that a very busy machine takes."""
    return max(1.0, minutes * 60 * TRAINING_TIME_SHARE * steps_per_second)


def test_a_run_extended_in_minutes_keeps_the_speed_that_was_measured(make_run: MakeRun, tmp_path: Path) -> None:
    run, events = make_run("longer", **MINUTES), list[Event]()
    run_training(run, tmp_path)
    first = read_state(run.checkpoint())
    run_training(run, tmp_path, overrides=(("train.minutes", "0.01"),), on_event=events.append)
    assert read_state(run.checkpoint())["flops_per_second"] == first["flops_per_second"]
    plan = resolve_batch_plan(run.config(), 257, 1)
    steps_per_second = first["flops_per_second"] / (plan.tokens_per_step * plan.flops_per_token)
    assert read_state(run.checkpoint())["step"] == pytest.approx(steps_in(0.01, steps_per_second), abs=0.51)
    assert any(isinstance(event, StepLogged) for event in events)


def test_another_length_replaces_the_minutes_of_a_preset(tmp_path: Path) -> None:
    preset = load_preset("quickstart", tmp_path)
    assert preset.train.minutes == 2
    assert with_overrides(preset, [("train.steps", "7")]).train.minutes == 0
    assert with_overrides(preset, [("train.tokens", "7")]).train.minutes == 0
