"""The loop: what it says, what it obeys, what it refuses to apply."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import llm.training.measurements
import llm.training.saver
from llm.errors import UserError
from llm.events import (
    CommandRefused,
    Evaluated,
    Event,
    Finished,
    KnobSet,
    Paused,
    Progress,
    Resumed,
    RolledBack,
    Sampled,
    Saved,
    Skipped,
    Started,
    StepLogged,
    Warned,
)
from llm.model.transformer import Transformer
from llm.run import Command, Run
from llm.training.batch_plan import BatchPlan
from llm.training.commands import CommandQueue
from llm.training.run import run_training
from llm.training.state import TrainerState
from llm.training.step import accumulate_gradients

from .conftest import MakeRun

At = dict[int, list[tuple[str, dict[str, str]]]]


def train(run: Run, home: Path, at: At | None = None) -> list[Event]:
    """Train to the end, sending commands `at` given steps; all events."""
    events: list[Event] = []
    queue = CommandQueue()

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged):
            for number, (name, arguments) in enumerate((at or {}).get(event.step, [])):
                queue.inject(Command(name, f"{event.step}-{number}", dict(arguments)))

    run_training(run, home, commands=queue, on_event=on_event)
    return events


def of(kind: type[Event], events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def test_a_run_tells_its_story_in_order(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("story")
    events = train(run, tmp_path)
    assert [event.step for event in of(StepLogged, events)] == list(range(1, 25))  # type: ignore[attr-defined]
    assert [event.step for event in of(Evaluated, events)] == [0, 9, 18, 24]  # type: ignore[attr-defined]
    assert [event.step for event in of(Sampled, events)] == [0, 10, 20, 24]  # type: ignore[attr-defined]
    assert [event.step for event in of(Saved, events)] == [7, 14, 21, 24]  # type: ignore[attr-defined]
    kinds = [type(event) for event in events]
    assert kinds.index(Progress) < kinds.index(Started) < kinds.index(StepLogged)
    assert events[-1] == of(Finished, events)[0] and run.status().name == "finished"
    assert [type(event) for event in run.events()] == kinds
    first = of(StepLogged, events)[0]
    assert isinstance(first, StepLogged)
    assert first.tokens_seen == 2 * 3 * 16 and first.loss == pytest.approx(math.log(257), abs=0.3)
    last = of(Evaluated, events)[-1]
    assert isinstance(last, Evaluated)
    assert last.validation_loss < 4 and last.perplexity == pytest.approx(math.exp(last.validation_loss))
    assert run.checkpoint("best").metrics["validation_loss"] == last.validation_loss


def test_micro_batches_make_the_same_step(make_run: MakeRun, tmp_path: Path) -> None:
    curves = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        run = make_run(
            f"micro-{batch}", train__batch_size=str(batch), train__accumulation=str(accumulation), model__dropout="0"
        )
        curves.append([event.loss for event in of(StepLogged, train(run, tmp_path))])  # type: ignore[attr-defined]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=2e-4)


@pytest.mark.parametrize(("rows", "accumulation"), [(2, 4), (6, 4), (4, 0), (0, 1)])
def test_micro_batches_that_are_empty_or_leave_rows_out_are_an_error(rows: int, accumulation: int) -> None:
    tokens = np.zeros((rows, 8), dtype=np.int64)
    context = Mock(batch_plan=BatchPlan(1, rows, 8, accumulation, 0.0, 0))
    with pytest.raises(ValueError, match=f"{rows} sequences cannot be split into {accumulation} equal micro-batches"):
        accumulate_gradients(context, (tokens, tokens), loss_fn=Mock())


def test_the_last_step_is_sampled_once(make_run: MakeRun, tmp_path: Path) -> None:
    due = make_run("due", train__steps="20")
    assert [event.step for event in of(Sampled, train(due, tmp_path))] == [0, 10, 20]
    assert of(Sampled, train(due, tmp_path)) == [], "a finished run, resumed, makes no step to be sampled"
    never = make_run("never", train__steps="3", sample__every="0")
    assert of(Sampled, train(never, tmp_path)) == []
    stopped = make_run("stopped")
    events = train(stopped, tmp_path, {5: [("stop", {})]})
    assert [event.step for event in of(Sampled, events)] == [0]


def test_a_rate_that_no_group_uses_is_reported(make_run: MakeRun, tmp_path: Path) -> None:
    own = {
        "train__steps": "1",
        "optim__kind": "muon",
        "optim__embedding_lr": "0.2",
        "model__norm_gain": "false",
    }

    def told(name: str, **fields: str) -> list[str]:
        return [event.message for event in of(Warned, train(make_run(name, **own | fields), tmp_path))]

    warning = "train.lr = 0.01 has no effect: every learning rate is set by optim.embedding_lr, optim.matrix_lr. "
    assert told("idle") == [warning + "Change those, or train.lr_multiplier for all of them."]
    assert told("shown", train__lr="0.02") == [], "the highest of them, for the log"
    assert told("used", model__norm_gain="true") == []


def test_commands_are_answered_by_id(make_run: MakeRun, tmp_path: Path) -> None:
    at: At = {
        3: [
            ("save", {}),
            ("evaluate", {}),
            ("sample", {}),
            ("snapshot", {}),
            ("set", {"key": "train.clip", "value": "0.5"}),
            ("set", {"key": "model.d_model", "value": "64"}),
            ("set", {"key": "train.clip", "value": "lots"}),
            ("dance", {}),
            ("pause", {}),
            ("evaluate", {}),
            ("resume", {}),
        ]
    }
    run = make_run("asked", checkpoint__every="0", evaluate__every="0", sample__every="0")
    events = train(run, tmp_path, at)
    answers = {event.command_id: event for event in events if getattr(event, "command_id", "")}  # type: ignore[attr-defined]
    assert isinstance(answers["3-0"], Saved) and answers["3-0"].kind == "checkpoint"
    assert isinstance(answers["3-1"], Evaluated) and isinstance(answers["3-2"], Sampled)
    snapshot = answers["3-3"]
    assert isinstance(snapshot, Saved) and snapshot.kind == "snapshot"
    assert (run.path / snapshot.path / "model.safetensors").exists()
    change = answers["3-4"]
    assert isinstance(change, KnobSet) and (change.value, change.previous) == (0.5, 1.0)
    assert all(isinstance(answers[f"3-{n}"], CommandRefused) for n in (5, 6, 7))
    assert isinstance(answers["3-8"], Paused) and isinstance(answers["3-10"], Resumed)
    assert events.index(answers["3-8"]) < events.index(answers["3-9"]) < events.index(answers["3-10"])
    assert isinstance(events[-1], Finished)


def test_a_setting_changed_while_training_survives_a_stop(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("setting", schedule__kind="constant")
    train(run, tmp_path, {5: [("set", {"key": "train.lr_multiplier", "value": "0.5"}), ("stop", {})]})
    rates = {(event.lr, event.lr_multiplier) for event in of(StepLogged, train(run, tmp_path))}  # type: ignore[attr-defined]
    assert rates == {(0.5e-2, 0.5)}


Breaker = Callable[[int], bool]


@pytest.fixture
def broken_loss(monkeypatch: pytest.MonkeyPatch) -> Callable[[Breaker], None]:
    """Make the training loss NaN whenever the breaker says so of the n-th call."""

    def install(breaks: Breaker) -> None:
        calls = 0
        original = Transformer.loss

        def loss(
            self: Transformer, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", **more: object
        ) -> torch.Tensor:
            nonlocal calls
            value = original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]
            if reduction != "mean":
                return value
            calls += 1
            return value * math.nan if breaks(calls) else value

        monkeypatch.setattr(Transformer, "loss", loss)

    return install


def test_a_step_that_is_not_finite_is_not_applied(
    make_run: MakeRun, tmp_path: Path, broken_loss: Callable[[Breaker], None]
) -> None:
    broken_loss(lambda call: call == 3 * 4 + 2)  # the second micro-batch of step 5
    run = make_run("nan")
    events = train(run, tmp_path)
    (skipped,) = of(Skipped, events)
    assert isinstance(skipped, Skipped) and skipped.step == 5 and math.isnan(skipped.loss)
    last = of(StepLogged, events)[-1]
    assert isinstance(last, StepLogged) and math.isfinite(last.loss) and last.step == 24


def test_many_bad_steps_roll_back_once_and_then_stop_with_advice(
    make_run: MakeRun, tmp_path: Path, broken_loss: Callable[[Breaker], None]
) -> None:
    broken_loss(lambda call: call > 3 * 15)
    run = make_run("hopeless", train__max_bad_steps="3")
    with pytest.raises(UserError, match=r"non-finite for 3 steps in a row; lower train\.lr"):
        train(run, tmp_path)
    events = list(run.events())
    (back,) = of(RolledBack, events)
    assert isinstance(back, RolledBack) and (back.step, back.from_step) == (14, 18)
    assert isinstance(events[-1], Finished) and events[-1].status == "failed"
    assert all(math.isfinite(value) for info in run.checkpoints() for value in info.metrics.values())


def test_a_full_disk_during_a_save_is_a_warning_and_the_next_save_works(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = llm.training.saver.publish, 0

    def save(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(llm.training.saver, "publish", save)
    run = make_run("full")
    events = train(run, tmp_path)
    (warning,) = of(Warned, events)
    assert isinstance(warning, Warned) and warning.step == 14 and "No space left" in warning.message
    assert [info.step for info in run.checkpoints()] == [7, 21, 24]


def test_weights_that_are_not_finite_are_never_saved(
    make_run: MakeRun, tmp_path: Path, live_states: list[TrainerState]
) -> None:
    run = make_run("poisoned")

    def poison(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 16:
            with torch.no_grad():
                next(live_states[0].model.parameters()).fill_(math.inf)

    with pytest.raises(UserError):
        run_training(run, tmp_path, on_event=poison)
    assert [info.step for info in run.checkpoints()] == [7, 14]


def test_text_too_short_for_one_window_is_refused_before_step_0(
    make_run: MakeRun, tmp_path: Path, corpus: Path
) -> None:
    corpus.write_text("too short")
    run = make_run("short")
    with pytest.raises(UserError, match="too short"):
        train(run, tmp_path)
    assert run.status().name == "failed" and not of(Started, list(run.events()))


def test_evaluations_and_saves_do_not_count_as_the_time_of_a_step(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, after each, and once more where it was asked for."""
    run = make_run("slow-1", train__steps="6", evaluate__every="1", checkpoint__every="1")
    evaluate, rest, rests = llm.training.measurements.Measurements.evaluate, 0.2, 0

    def slowly(measurements: llm.training.measurements.Measurements, command_id: str = "") -> Iterator[Event]:
        nonlocal rests
        rests += 1
        time.sleep(rest)
        yield from evaluate(measurements, command_id)

    monkeypatch.setattr(llm.training.measurements.Measurements, "evaluate", slowly)
    began = time.perf_counter()
    steps = of(StepLogged, train(run, tmp_path, at={2: [("evaluate", {})]}))
    taken = time.perf_counter() - began
    assert len(steps) == 6 and all(event.step_ms > 0 for event in steps)  # type: ignore[attr-defined]
    assert rests == 8
    assert sum(event.step_ms for event in steps) / 1000 < taken - rests * rest  # type: ignore[attr-defined]


def test_a_run_warms_muons_momentum_up(make_run: MakeRun, tmp_path: Path) -> None:
    """A ramp between equal ends changes nothing, another one does, and a resumed run has the momentum of its step."""
    muon = {"optim__kind": "muon", "optim__momentum": "0.95", "schedule__kind": "constant"}
    ramp = muon | {"optim__momentum_start": "0.2", "optim__momentum_warmup_steps": "20"}
    flat = muon | {"optim__momentum_start": "0.95", "optim__momentum_warmup_steps": "20"}
    runs = {"plain": muon, "flat": flat, "ramp": ramp, "resumed": ramp | {"train__steps": "12"}}
    for name, settings in runs.items():
        train(make_run(name, **settings), tmp_path)
    run_training(Run.open(tmp_path, "resumed"), tmp_path, overrides=(("train.steps", "24"),))
    plain, flat_run, ramped, resumed = (
        (Run.open(tmp_path, name).checkpoint("24").path / "model.safetensors").read_bytes() for name in runs
    )
    assert plain == flat_run != ramped
    assert resumed == ramped
