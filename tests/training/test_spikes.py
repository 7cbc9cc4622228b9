"""A sudden rise of the loss: marked, skipped or rolled back, whichever was asked, and the same after any stop."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm.events import Event, Finished, RolledBack, Skipped, StepLogged, Warned
from llm.model.transformer import Transformer
from llm.run import Command, Run
from llm.training.commands import CommandQueue
from llm.training.live import LiveWeights
from llm.training.run import run_training
from llm.training.spikes import SpikeDetector
from llm.training.step import micro_batch_seed

from .conftest import MakeRun
from .test_resume import StopAfter, assert_same_end

SEED, SPIKE = 1337, 30  # batch 30 is the one that makes the loss jump: step 31
SETTINGS = {"train__steps": "44", "evaluate__every": "0", "sample__every": "0"}


@pytest.fixture
def bad_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Multiply the loss of certain batches by nine, whenever they come: a step seeds torch with what it works on."""

    def install(*indices: int) -> None:
        seeds = {micro_batch_seed(SEED, index, micro, 0) for index in indices for micro in range(3)}
        original = Transformer.loss

        def loss(
            self: Transformer, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", **more: object
        ) -> torch.Tensor:
            value = original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]
            return value * 9 if reduction == "mean" and torch.initial_seed() in seeds else value

        monkeypatch.setattr(Transformer, "loss", loss)

    return install


def train(run: Run, home: Path, **fields: object) -> list[Event]:
    events: list[Event] = []
    run_training(run, home, on_event=events.append, **fields)  # type: ignore[arg-type]
    return events


def of(kind: type[Event], events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def test_a_sudden_rise_of_the_loss_is_marked_once() -> None:
    watch = SpikeDetector()
    falling = [3.0 * 0.99**step + 0.02 * (step % 3) for step in range(60)]
    assert [watch.update(step, loss) for step, loss in enumerate(falling)] == [""] * 60
    assert "loss spike: 4.000 after" in watch.update(60, 4.0) and watch.is_first
    plateau = []
    for step in range(61, 160):
        if watch.update(step, 3.8 + 0.02 * (step % 3)):
            plateau.append(step)
            assert not watch.is_first, "the plateau is no news"
    assert plateau[:5] == [61, 62, 63, 64, 65] and max(plateau) < 100, "in the end it is what the loss is"


def test_a_spike_reaches_the_log(make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]) -> None:
    bad_batch(SPIKE)
    (spike,) = of(Warned, train(make_run("spiky", **SETTINGS), tmp_path))
    assert isinstance(spike, Warned) and spike.step == SPIKE + 1 and spike.message.startswith("loss spike")


def test_a_spike_is_skipped_and_the_next_step_is_not(
    make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]
) -> None:
    bad_batch(SPIKE)
    weights: dict[int, torch.Tensor] = {}
    lives: list[LiveWeights] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged):
            weights[event.step] = lives[0].snapshot()[0].head_weight.detach().clone()

    events: list[Event] = []
    run = make_run("skips", **SETTINGS, train__on_spike="skip")
    run_training(run, tmp_path, on_event=on_event, on_live=lives.append)
    (skipped,) = of(Skipped, events)
    assert isinstance(skipped, Skipped) and skipped.step == SPIKE + 1 and "loss spike" in skipped.reason
    assert skipped.text and not of(Warned, events)
    assert weights[SPIKE + 1].equal(weights[SPIKE]) and not weights[SPIKE + 2].equal(weights[SPIKE])
    assert isinstance(events[-1], Finished) and events[-1].status == "finished"


def test_skipping_is_the_same_after_any_stop(make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]) -> None:
    """What is usual is part of the checkpoint, so that a resumed run skips what an uninterrupted one would."""
    bad_batch(SPIKE, SPIKE + 6, SPIKE + 7)
    settings = SETTINGS | {"train__on_spike": "skip"}
    whole = make_run("whole", **settings)
    skipped = [event.step for event in of(Skipped, train(whole, tmp_path))]  # type: ignore[attr-defined]
    assert skipped == [SPIKE + 1, SPIKE + 7, SPIKE + 8]
    chance = random.Random(8)
    for number in range(2):
        run = make_run(f"stopped-{number}", **settings)
        while run_training(run, tmp_path, commands=StopAfter(chance.randint(20, 90))).status == "stopped":
            pass
        assert_same_end(whole, run)


def test_a_loss_that_stays_high_is_not_skipped_for_ever(
    make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]
) -> None:
    bad_batch(*range(SPIKE, 100))
    run = make_run("higher", **SETTINGS | {"train__steps": "80", "train__on_spike": "skip"})
    events = train(run, tmp_path)
    assert 5 <= len(of(Skipped, events)) < 30
    assert max(event.step for event in of(Skipped, events)) < 70  # type: ignore[attr-defined]


def test_a_spike_is_rolled_back_once_and_its_batch_is_not_met_again(
    make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]
) -> None:
    bad_batch(SPIKE)
    run = make_run("rolls-back", **SETTINGS, train__on_spike="roll-back")
    events = train(run, tmp_path)
    (back,) = of(RolledBack, events)
    assert isinstance(back, RolledBack) and (back.step, back.from_step) == (28, SPIKE + 3)
    assert f"step {SPIKE + 1}" in back.reason
    tokens = [event.tokens_seen for event in of(StepLogged, events)][-1]  # type: ignore[attr-defined]
    assert tokens == 44 * 2 * 3 * 16, "the length is kept"
    assert len(of(Warned, events)) == 1 and isinstance(events[-1], Finished)
    assert run.checkpoint().step == 44


def test_a_roll_back_that_a_stop_came_before_is_made_up_for(
    make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]
) -> None:
    bad_batch(SPIKE)
    settings = SETTINGS | {"train__on_spike": "roll-back"}
    whole, run = make_run("whole", **settings), make_run("stopped", **settings)
    train(whole, tmp_path)
    queue = CommandQueue()

    def stop(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == SPIKE + 2:
            queue.inject(Command("stop", "s"))

    assert run_training(run, tmp_path, commands=queue, on_event=stop).step == SPIKE + 2
    (back,) = of(RolledBack, train(run, tmp_path))
    assert isinstance(back, RolledBack) and (back.step, back.from_step) == (28, SPIKE + 3)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole.checkpoint().path / name).read_bytes() == (run.checkpoint().path / name).read_bytes()


def test_without_a_checkpoint_from_before_the_spike_training_continues(
    make_run: MakeRun, tmp_path: Path, bad_batch: Callable[..., None]
) -> None:
    bad_batch(SPIKE)
    run = make_run("no-way-back", **SETTINGS, train__on_spike="roll-back", checkpoint__every="0")
    events = train(run, tmp_path)
    said = [event.message for event in of(Warned, events)]  # type: ignore[attr-defined]
    assert len(said) == 2 and "no checkpoint is older than" in said[1]
    assert not of(RolledBack, events) and isinstance(events[-1], Finished)
