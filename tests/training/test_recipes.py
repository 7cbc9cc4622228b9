"""What the five documents ask of the loop, each for itself, and faults of theirs that must not come back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm.training.measurements
import llm.training.metrics
from llm.data.tokens.prepare import find_tokenized_dataset
from llm.device import Plan
from llm.engine import Engine, Piece
from llm.errors import UserError
from llm.events import Evaluated, Event, Progress, Sampled, Saved, Skipped, Started, StepLogged
from llm.model.transformer import Transformer
from llm.run import Run
from llm.run.checkpoints import MODEL, OPTIMIZER
from llm.training.batch_plan import resolve_batch_plan
from llm.training.evaluate import Evaluation, evaluate
from llm.training.run import run_training
from llm.weights import load_model, load_weights
from tests.draining import result_of

from .conftest import MakeRun


def trained(run: Run, home: Path) -> list[Event]:
    events: list[Event] = []
    run_training(run, home, on_event=events.append)
    return events


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint().path / "model.safetensors")


def test_steps_are_logged_as_often_as_asked(make_run: MakeRun, tmp_path: Path) -> None:
    events = trained(make_run("quiet", train__log_every="5", sample__every="0", evaluate__every="0"), tmp_path)
    assert [event.step for event in events if isinstance(event, StepLogged)] == [1, 5, 10, 15, 20, 24]


@pytest.mark.parametrize(("only_improved", "saved"), [("true", [4, 12, 24]), ("false", [4, 8, 12, 16, 20, 24])])
def test_saved_only_when_the_validation_loss_improved(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_improved: str, saved: list[int]
) -> None:
    """Always at the end, whatever the loss."""
    losses = iter([5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 3.2])  # at step 0 and every fourth

    def scripted(*_: object, **__: object) -> Generator[Progress, None, Evaluation]:
        yield Progress(stage="Evaluating", done=1, total=2)
        return Evaluation(next(losses), 1.0, 100)

    monkeypatch.setattr(llm.training.measurements, "evaluate", scripted)
    options = {"evaluate__every": "4", "checkpoint__every": "4", "sample__every": "0"}
    events = trained(make_run("improving", checkpoint__only_improved=only_improved, **options), tmp_path)
    assert [event.step for event in events if isinstance(event, Saved)] == saved


def test_the_training_text_is_evaluated_too_where_asked(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("both", train__steps="6", evaluate__every="0", evaluate__train_too="true")
    told = [event for event in trained(run, tmp_path) if isinstance(event, Evaluated)]
    dataset, _ = find_tokenized_dataset(run.config(), tmp_path)
    assert dataset is not None
    model, tokenizer = load_model(run, run.checkpoint())
    plan = Plan("cpu", "fp32", 1, False)
    expected = result_of(evaluate(model, dataset.train, tokenizer, plan, seq_len=16, batch_size=2, batches=3))
    assert [event.step for event in told] == [0, 6]
    assert told[-1].train_loss == pytest.approx(expected.loss, rel=1e-5)
    plain = [event for event in trained(make_run("one", train__steps="1"), tmp_path) if isinstance(event, Evaluated)]
    assert plain and all(event.train_loss is None for event in plain)


def test_a_sample_continues_from_the_prompt_that_was_asked_for(make_run: MakeRun, tmp_path: Path) -> None:
    asked = {"sample__every": "8", "sample__prompt": "the cat", "sample__max_tokens": "11"}
    run = make_run("telling", train__steps="8", decode__temperature="1.0", **asked)
    told = [event for event in trained(run, tmp_path) if isinstance(event, Sampled)]
    params = replace(run.config().decode, max_tokens=11)
    pieces = list(Engine(*load_model(run, run.checkpoint())).stream("the cat", params))
    assert [(event.step, event.prompt) for event in told] == [(0, "the cat"), (8, "the cat")]
    assert told[-1].text == "".join(piece.text for piece in pieces if isinstance(piece, Piece))
    assert len(pieces) <= 11 + 1


def test_evaluating_and_sampling_change_nothing_of_training(make_run: MakeRun, tmp_path: Path) -> None:
    """With dropout, so that one draw from training's generator would show."""
    watched = make_run("watched", evaluate__every="1", sample__every="1", evaluate__train_too="true")
    alone = make_run("alone", evaluate__every="0", sample__every="0", evaluate__at_start="false")
    events = trained(watched, tmp_path)
    assert sum(isinstance(event, Evaluated) for event in events) == sum(isinstance(event, Sampled) for event in events)
    trained(alone, tmp_path)
    one, other = weights(watched), weights(alone)
    assert all(one[name].equal(other[name]) for name in one)


def test_half_precision_with_a_scaled_loss_learns_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    options = {"model__dropout": "0", "sample__every": "0", "train__lr": "1e-3"}
    half, full = (make_run(name, train__precision=name, **options) for name in ("fp16", "fp32"))
    curves = [[event.loss for event in trained(run, tmp_path) if isinstance(event, StepLogged)] for run in (half, full)]
    assert curves[0] == pytest.approx(curves[1], rel=5e-3)
    assert curves[0] != curves[1]
    norms = [[event.grad_norm for event in run.events() if isinstance(event, StepLogged)] for run in (half, full)]
    assert norms[0] == pytest.approx(norms[1], rel=5e-2), "the scale is taken out again before clipping"
    assert json.loads((half.checkpoint().path / "state.json").read_text())["loss_scale"] == 2**16


def test_an_overflow_of_half_precision_halves_the_scale(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Transformer.loss, 0

    def loss(
        self: Transformer, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", **more: object
    ) -> torch.Tensor:
        nonlocal calls
        value = original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]
        calls += reduction == "mean"
        return value * torch.inf if reduction == "mean" and calls in (2, 5) else value

    monkeypatch.setattr(Transformer, "loss", loss)
    run = make_run("overflowing", train__precision="fp16", train__max_bad_steps="1", sample__every="0")
    skipped = [event for event in trained(run, tmp_path) if isinstance(event, Skipped)]
    assert [(event.step, "loss scale" in event.reason) for event in skipped] == [(1, True), (2, True)]
    assert json.loads((run.checkpoint().path / "state.json").read_text())["loss_scale"] == 2**14


def test_operations_and_their_share_of_the_peak(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.training.metrics, "peak_flops", lambda device: 1e9)
    run = make_run("measured", train__steps="4", sample__every="0")
    events = trained(run, tmp_path)
    flops = resolve_batch_plan(run.config(), 257, 10_000).flops_per_token
    steps = [event for event in events if isinstance(event, StepLogged)]
    assert [event.total_flops for event in steps] == [96 * step * flops for step in (1, 2, 3, 4)]
    assert [event.mfu for event in steps] == [
        pytest.approx(event.tokens_per_second * flops / 1e9, rel=1e-9) for event in steps
    ]


def test_lost_checkpoints_are_an_error_and_no_fresh_start(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("robbed", train__steps="7", sample__every="0")
    trained(run, tmp_path)
    shutil.rmtree(run.checkpoint_directory)
    with pytest.raises(UserError, match="its checkpoints are gone"):
        run_training(run, tmp_path, overrides=(("train.steps", "9"),))
    assert sum(isinstance(event, Started) for event in run.events()) == 1


@pytest.mark.parametrize("change", ["lacking", "more", "other shape"])
def test_weights_that_do_not_fit_exactly_are_refused(make_run: MakeRun, tmp_path: Path, change: str) -> None:
    run = make_run("exact", train__steps="1", sample__every="0")
    trained(run, tmp_path)
    model, _ = load_model(run, run.checkpoint())
    tensors = weights(run)
    if change == "lacking":
        del tensors["blocks.0.attn.q.weight"]
    else:
        tensors["another" if change == "more" else "final_norm.gain"] = torch.ones(5)
    copy = Path(shutil.copytree(run.checkpoint().path, tmp_path / "changed"))
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match="does not fit this configuration"):
        load_weights(model, replace(run.checkpoint(), path=copy))


@pytest.mark.parametrize(("name", "can_be_read"), [(OPTIMIZER, True), (MODEL, False)])
def test_to_chat_with_a_model_its_weights_must_be_complete_and_no_more(
    make_run: MakeRun, tmp_path: Path, name: str, can_be_read: bool
) -> None:
    run = make_run("harmed", train__steps="2")
    run_training(run, tmp_path)
    path = run.checkpoint().path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if can_be_read:
        load_model(run, run.checkpoint())
    else:
        with pytest.raises(UserError, match=name):
            load_model(run, run.checkpoint())
