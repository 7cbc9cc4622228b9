"""Faults while training: a full file system, no memory, a failing compiler, damage behind the trainer's back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llm.training.metrics
import llm.training.run
from llm.errors import UserError
from llm.events import Event, Finished, RolledBack, Saved, Skipped, Started, StepLogged, Warned
from llm.files import published_directory, read_json
from llm.model.transformer import Transformer
from llm.run import Command, Run
from llm.run.checkpoints import verify
from llm.tokenizer.base import BaseTokenizer
from llm.training.batch_plan import resolve_batch_plan
from llm.training.commands import CommandQueue
from llm.training.distributed import Ranks
from llm.training.live import LiveWeights
from llm.training.recovery import halve_micro_batch
from llm.training.run import run_training
from llm.training.state import TrainerState
from llm.weights import load_model

from .conftest import MakeRun, file_system


def train(run: Run, home: Path, **fields: object) -> list[Event]:
    events: list[Event] = []
    run_training(run, home, on_event=events.append, **fields)  # type: ignore[arg-type]
    return events


def remove_for_good(path: Path) -> None:
    """What a person's `rm -r` does, once more where a save under way put something in or took it out meanwhile."""
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)


def messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@contextmanager
def shown_at(place: Path, source: Path) -> Iterator[None]:
    """The file `source` in the place of another, on a file system of its own; a link there would be refused."""
    place.touch()
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_file_system_during_a_save_costs_that_save_only(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("full")
    with file_system(run.checkpoint_directory, "256k") as small_disk:
        save_on_a_full_disk(run, tmp_path, small_disk)


def save_on_a_full_disk(run: Run, tmp_path: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StepLogged) and event.step == 10:
            room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
            ballast.write_bytes(bytes(room - 8192))
        if isinstance(event, Warned):
            assert [info.step for info in run.checkpoints()] == [7]
            verify(run.checkpoint())
            ballast.unlink()

    assert run_training(run, tmp_path, on_event=on_event).status == "finished"
    (warning,) = [event for event in seen if isinstance(event, Warned)]
    assert warning.step == 14 and "No space left" in warning.message
    assert [info.step for info in run.checkpoints()] == [7, 21, 24]
    assert not list(small_disk.glob(".tmp-*"))


def test_a_crash_on_a_full_disk_still_says_what_happened(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(llm.training.run, "write_atomic", full)
    run = make_run("crash")

    def fail(event: Event) -> None:
        if isinstance(event, StepLogged):
            raise ArithmeticError("the real reason")

    with pytest.raises(ArithmeticError):
        run_training(run, tmp_path, on_event=fail)
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and (last.status, last.reason) == ("failed", "the real reason")


def test_a_tokenizer_half_written_by_a_full_disk_is_not_taken_for_one(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        raise OSError(28, "No space left on device")

    train(make_run("prepares", train__steps="1"), tmp_path)  # the corpus and its tokenizer are shared
    run = make_run("tokens", train__steps="1")
    with monkeypatch.context() as patch:
        patch.setattr(BaseTokenizer, "save", full)
        with pytest.raises(UserError, match="make room"):
            train(run, tmp_path)
    train(run, tmp_path)
    load_model(run, run.checkpoint())


def out_of_memory_above(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Transformer.loss

    def loss(
        self: Transformer, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", **more: object
    ) -> torch.Tensor:
        if len(tokens) > rows and reduction == "mean":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "loss", loss)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_tokens(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"train__batch_size": "4", "train__accumulation": "1", "model__dropout": "0"}
    whole, run = make_run("whole", **fields), make_run("starved", **fields)
    expected = [event for event in train(whole, tmp_path) if isinstance(event, StepLogged)]
    out_of_memory_above(2, monkeypatch)
    queue = CommandQueue()
    queue.inject(Command("set", "k", {"key": "train.log_every", "value": "1"}))

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 5:
            queue.inject(Command("stop", "s"))

    events: list[Event] = []
    run_training(run, tmp_path, commands=queue, on_event=stop)
    (said,) = messages(events)
    assert "2 micro-batches of 2 sequences instead of 4" in said and "still 64 tokens" in said
    rest = train(run, tmp_path)
    assert messages(rest) == [], "what was found out is kept"
    found = [event for event in (*events, *rest) if isinstance(event, StepLogged)]
    assert [event.tokens_seen for event in found] == [event.tokens_seen for event in expected]
    assert [event.loss for event in found] == pytest.approx([event.loss for event in expected], rel=2e-4)


def test_a_halved_micro_batch_is_kept_by_its_size(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("starved", train__batch_size="4", train__accumulation="2", train__steps="2")
    out_of_memory_above(2, monkeypatch)
    train(run, tmp_path)
    state = read_json(run.checkpoint().path / "state.json")
    assert (state["rows"], state["micro_batch"]) == (8, 2)


def test_out_of_memory_with_one_sequence_is_a_sentence(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_above(0, monkeypatch)
    with pytest.raises(UserError, match=r"micro-batch of 1 × 16 tokens does not fit in memory; lower"):
        train(make_run("huge"), tmp_path)


def test_out_of_memory_with_several_ranks_is_a_sentence(make_run: MakeRun) -> None:
    config = make_run("huge", train__batch_size="4").config()
    batch_plan = resolve_batch_plan(config, 257, 1000, 2)
    context: Any = SimpleNamespace(config=config, batch_plan=batch_plan, ranks=Ranks(0, 2))
    with pytest.raises(UserError, match=r"micro-batch of 4 × 16 tokens does not fit in memory; lower"):
        halve_micro_batch(context)


def test_a_compiler_that_fails_in_the_backward_pass_is_a_warning(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for this")

    def compiled(function: object, **_: object) -> object:
        return lambda tokens, targets: Broken.apply(function(tokens, targets))  # type: ignore[operator]

    monkeypatch.setattr(torch, "compile", compiled)
    events = train(make_run("compiled", train__compile="on", train__steps="2"), tmp_path)
    assert any("torch.compile failed" in text and "no kernel" in text for text in messages(events))
    (started,) = [event for event in events if isinstance(event, Started)]
    assert not started.compiled and isinstance(events[-1], Finished)


def test_a_roll_back_passes_over_a_damaged_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Transformer.loss, 0

    def loss(
        self: Transformer, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", **more: object
    ) -> torch.Tensor:
        nonlocal calls
        value = original(self, tokens, targets, reduction, **more)  # type: ignore[arg-type]
        calls += reduction == "mean"
        return value * float("nan") if 45 < calls <= 51 and reduction == "mean" else value

    monkeypatch.setattr(Transformer, "loss", loss)
    run = make_run("twice-unlucky", train__max_bad_steps="2")
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Saved) and event.step == 14:
            (run.checkpoint("14").path / "model.safetensors").write_bytes(b"")

    run_training(run, tmp_path, on_event=on_event)
    (back,) = [event for event in events if isinstance(event, RolledBack)]
    assert (back.step, back.from_step) == (7, 17)
    skipped = next(event for event in events if isinstance(event, Skipped))
    assert len(skipped.text) > 20 and set(skipped.text.split()) & {"the", "cat", "dog", "sat", "mat", "home"}


def test_stopping_right_after_a_resume_keeps_the_best_checkpoint(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("best", train__steps="9", sample__every="0")
    train(run, tmp_path)
    before = run.checkpoint("best")
    assert before.step == 9 and "validation_loss" in before.metrics
    queue = CommandQueue()
    queue.inject(Command("stop", "s"))
    train(run, tmp_path, commands=queue, overrides=(("train.steps", "20"),))
    assert run.checkpoint("9").metrics == before.metrics and run.checkpoint("best").step == 9


def test_a_stop_while_preparing_is_answered_with_the_step_of_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("early", train__steps="9")
    train(run, tmp_path)
    queue = CommandQueue()
    queue.inject(Command("stop", "mine", {"reason": "interrupted by SIGTERM"}))
    (finished,) = [event for event in train(run, tmp_path, commands=queue) if isinstance(event, Finished)]
    assert (finished.status, finished.step, finished.command_id) == ("stopped", 9, "mine")
    assert "SIGTERM" in finished.reason


def test_a_damaged_meta_file_does_not_stop_the_training(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("meta", checkpoint__keep="1")
    (run.path / "meta.json").write_text("{")

    events: list[Event] = []
    with pytest.raises(UserError, match=r"meta\.json"):
        run_training(run, tmp_path)  # nothing is pruned, or restored, without knowing the pins
    (run.path / "meta.json").unlink()

    def harm(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 13:
            (run.path / "meta.json").write_text("{")
        if isinstance(event, Warned):
            (run.path / "meta.json").unlink()

    run_training(run, tmp_path, on_event=harm)
    assert any("older checkpoints were not removed" in text for text in messages(events))
    assert isinstance(events[-1], Finished) and events[-1].status == "finished"


def test_the_version_of_live_weights_moves_with_them(
    make_run: MakeRun, tmp_path: Path, live_states: list[TrainerState]
) -> None:
    """Whoever takes the lock sees weights and step together, never new weights under the old number."""
    run = make_run("live", train__steps="6", sample__every="0", evaluate__every="0", checkpoint__every="0")
    seen: list[int] = []

    class Watched:
        """The trainer's lock, looked through at the moment it is given back."""

        def __init__(self, state: TrainerState) -> None:
            self.state, self.applied = state, 0

        def __enter__(self) -> None:
            self.applied = int(self.state.optimizer.step_count)

        def __exit__(self, *_: object) -> None:
            if int(self.state.optimizer.step_count) > self.applied:
                seen.append(int(self.state.optimizer.step_count) - self.state.step)

    def on_live(_: LiveWeights) -> None:
        live_states[0].lock = Watched(live_states[0])  # type: ignore[assignment]

    run_training(run, tmp_path, on_live=on_live)
    assert seen == [0] * 6


def test_the_loss_scale_of_fp16_grows_back(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live_states: list[TrainerState]
) -> None:
    monkeypatch.setattr(llm.training.metrics, "LOSS_SCALE_STEPS", 5)
    run = make_run("half", train__precision="fp16", train__steps="12")
    run_training(run, tmp_path)
    (state,) = live_states
    assert (state.loss_scale, state.steps_at_scale) == (2.0**18, 2)


def test_a_full_file_system_under_the_event_log_leaves_a_recorded_gap(
    make_run: MakeRun, tmp_path: Path, small_disk: Path
) -> None:
    run = make_run("gap", checkpoint__every="0")
    (small_disk / "events.jsonl").touch()
    with shown_at(run.path / "events.jsonl", small_disk / "events.jsonl"):
        log_on_a_full_disk(run, tmp_path, small_disk)


def log_on_a_full_disk(run: Run, tmp_path: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"

    def on_event(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 3:
            with ballast.open("wb") as file:
                while file.write(bytes(4096)):
                    try:
                        file.flush()
                    except OSError:
                        break
        if isinstance(event, StepLogged) and event.step == 20:
            ballast.unlink()

    def fill(event: Event) -> None:
        try:
            on_event(event)
        except OSError as error:  # closing the ballast complains once more
            assert "No space left" in str(error)

    assert run_training(run, tmp_path, on_event=fill).status == "finished"
    events = list(run.events())
    logged = [event.step for event in events if isinstance(event, StepLogged)]
    assert logged[:3] == [1, 2, 3] and logged[-1] == 24 and len(logged) < 24
    assert any("log lines could not be written" in text for text in messages(events))
    assert run.status().name == "finished"


def test_a_run_that_is_removed_while_it_trains_ends_and_leaves_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    run, seen = make_run("removed"), []

    def remove(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StepLogged) and event.step == 10:
            remove_for_good(run.path)

    with pytest.raises(UserError, match="the folder of removed was removed or moved away"):
        run_training(run, tmp_path, on_event=remove)
    assert isinstance(seen[-1], Finished) and seen[-1].status == "failed"
    assert not run.path.exists()


def test_a_run_that_fails_just_after_its_log_was_removed_is_listed_as_failed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("failing")

    def fail(event: Event) -> None:
        if isinstance(event, StepLogged):
            (run.path / "events.jsonl").unlink()
            raise UserError("the token file was cut")

    with pytest.raises(UserError, match="the token file was cut"):
        run_training(run, tmp_path, on_event=fail)
    assert run.status().name == "failed" and isinstance(next(iter(run.events())), Started)


def test_a_save_that_starts_after_its_run_was_removed_does_not_bring_the_run_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), published_directory(tmp_path / "removed" / "checkpoints" / "step-00000010"):
        pytest.fail("there is nothing to write it in")
    assert not (tmp_path / "removed").exists()


def test_token_files_cut_while_training_are_a_sentence_that_names_the_file(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("cut", train__steps="100000", evaluate__every="0", sample__every="0")

    def cut(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 5:
            for path in (tmp_path / "data").glob("*/*.bin"):
                os.truncate(path, 10)

    with pytest.raises(UserError, match=r"train-00000\.bin has 10 bytes"):
        run_training(run, tmp_path, on_event=cut)
    last = list(run.events())[-1]
    assert isinstance(last, Finished) and last.status == "failed" and "train-00000.bin" in last.reason
