"""Stopped anywhere and resumed, a run ends as if nobody had touched it: weights, optimiser and losses, bit for bit."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import llm.training.run
from llm.errors import ConfigError, UserError
from llm.events import Event, Finished, Started, StepLogged, Warned
from llm.run import Command, Run
from llm.run.checkpoints import weights_file
from llm.training.commands import CommandQueue
from llm.training.distributed import Ranks
from llm.training.run import run_training

from .conftest import MakeRun


class StopAfter(CommandQueue):
    """Asks for a stop at the n-th look for one: between steps, or between the micro-batches of a step."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def poll(self) -> None:
        super().poll()
        self.looks -= 1
        if self.looks == 0:
            self.waiting.append(Command("stop", "test"))


def losses(run: Run) -> dict[int, float]:
    """The loss of every step as the log finally has it: what a restart voids is replaced by what came after."""
    found: dict[int, float] = {}
    for event in run.events():
        if isinstance(event, Started):
            found = {step: loss for step, loss in found.items() if step <= event.step}
        elif isinstance(event, StepLogged):
            found[event.step] = event.loss
    return found


def assert_same_end(one: Run, other: Run) -> None:
    for name in (weights_file(one.checkpoint()), "optimizer.safetensors"):
        first, second = (load_file(run.checkpoint().path / name) for run in (one, other))
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first), name
    assert losses(one) == losses(other)
    assert one.checkpoint().step == other.checkpoint().step


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_interrupted_at_random_equal_an_uninterrupted_one(make_run: MakeRun, tmp_path: Path, count: int) -> None:
    whole = make_run("whole")
    assert run_training(whole, tmp_path).status == "finished"
    assert len(losses(whole)) == 24
    chance = random.Random(20)
    stops = 0
    for number in range(count):
        run = make_run(f"interrupted-{number}")
        while run_training(run, tmp_path, commands=StopAfter(chance.randint(1, 60))).status == "stopped":
            stops += 1
        assert_same_end(whole, run)
    assert stops >= count


def test_a_stop_between_micro_batches_keeps_the_last_completed_step(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("mid")
    queue = StopAfter(-1)

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged):
            queue.looks = 3  # one before step 2, then one after each of its first two micro-batches

    finished = run_training(run, tmp_path, commands=queue, on_event=on_event)
    assert (finished.status, finished.step) == ("stopped", 1)
    assert run.checkpoint().step == 1


def test_a_finished_run_can_be_extended(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("short", train__steps="10", schedule__kind="constant")
    longer = make_run("long", train__steps="17", schedule__kind="constant")
    run_training(run, tmp_path)
    assert run_training(run, tmp_path).status == "finished", "nothing to do is not an error"
    assert run_training(run, tmp_path, overrides=(("train.steps", "17"),)).step == 17
    run_training(longer, tmp_path)
    assert_same_end(run, longer)
    started = [event for event in run.events() if isinstance(event, Started)][-1]
    assert started.changed == {"train.steps": "17"} and started.step == 10


def test_a_length_of_another_kind_replaces_that_of_an_earlier_resume(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("twice", train__steps="2")
    assert run_training(run, tmp_path, overrides=(("train.steps", "3"),)).step == 3
    assert run_training(run, tmp_path, overrides=(("train.tokens", str(5 * 2 * 3 * 16)),)).step == 5


def test_a_change_that_is_not_safe_is_refused_by_name(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("fixed", train__steps="2")
    run_training(run, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.d_model: cannot change from 12 to 24") as caught:
        run_training(run, tmp_path, overrides=(("model.d_model", "24"), ("data.order", "random")))
    assert len(caught.value.problems) == 2


def test_changed_text_is_refused(make_run: MakeRun, tmp_path: Path, corpus: Path) -> None:
    run = make_run("text", train__steps="2")
    run_training(run, tmp_path)
    corpus.write_text(corpus.read_text() + "one more line\n")
    with pytest.raises(UserError, match="has changed"):
        run_training(run, tmp_path, overrides=(("train.steps", "4"),))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(make_run: MakeRun, tmp_path: Path) -> None:
    whole, stopped = make_run("whole"), make_run("stopped")
    run_training(whole, tmp_path)
    run_training(stopped, tmp_path, commands=StopAfter(60))
    for harm in ("flip", "missing", "empty"):
        run = Run(shutil.copytree(stopped.path, stopped.path.with_name(harm)))
        path = run.checkpoint().path / "optimizer.safetensors"
        if harm == "missing":
            path.unlink()
        elif harm == "empty":
            path.write_bytes(b"")
        else:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 4
            path.write_bytes(data)
        events: list[Event] = []
        run_training(run, tmp_path, on_event=events.append)
        assert any(isinstance(event, Warned) and "optimizer.safetensors" in event.message for event in events), harm
        assert isinstance(events[-1], Finished)
        assert_same_end(whole, run)


def contents(run: Run) -> dict[str, bytes]:
    """Every file of a run but the lock, which names who looked last."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize("reason", ["ranks", "text", "field", "bundle"])
def test_a_refused_resume_leaves_a_finished_run_as_it_was(
    make_run: MakeRun, tmp_path: Path, corpus: Path, reason: str
) -> None:
    run = make_run("done", train__steps="4")
    run_training(run, tmp_path)
    before, overrides, ranks = contents(run), [("train.steps", "8")], Ranks()
    if reason == "ranks":
        ranks = Ranks(0, 4)  # a step of 6 sequences
    elif reason == "text":
        corpus.write_text(corpus.read_text() + "≠")
    elif reason == "field":
        overrides.append(("model.n_layer", "2"))
    else:
        overrides += [("evaluate.core_every", "4"), ("evaluate.core_path", str(tmp_path / "nowhere"))]
    with pytest.raises(UserError):
        run_training(run, tmp_path, overrides=tuple(overrides), ranks=ranks)
    assert contents(run) == before
    assert run.status().name == "finished" and run.holder() is None


def test_a_failure_while_a_finished_run_is_prepared_again_is_logged_and_it_stays_finished(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("done", train__steps="4")
    run_training(run, tmp_path)

    def refused(*_: object) -> None:
        raise UserError("the tokenizer cannot be written; make room.")

    monkeypatch.setattr(llm.training.run, "save_tokenizer", refused)
    with pytest.raises(UserError, match="make room"):
        run_training(run, tmp_path, overrides=(("train.steps", "8"),))
    warning, last = list(run.events())[-2:]
    assert isinstance(warning, Warned) and warning.message == "not resumed: the tokenizer cannot be written; make room."
    assert isinstance(last, Finished) and (last.status, last.step) == ("finished", 4)


def test_a_stop_while_a_finished_run_is_prepared_leaves_it_finished(make_run: MakeRun, tmp_path: Path) -> None:
    run, queue = make_run("done", train__steps="4"), CommandQueue()
    run_training(run, tmp_path)
    queue.inject(Command("stop", "s"))
    assert run_training(run, tmp_path, commands=queue, overrides=(("train.steps", "8"),)).status == "stopped"
    assert run.status().name == "finished"
