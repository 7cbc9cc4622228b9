"""What a training says and does where less memory or fewer processors are allowed than it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm.device
import llm.training.setup
import llm.training.state
from llm.errors import UserError
from llm.events import Event, Finished, Started, Warned
from llm.limits import Memory
from llm.run import Run
from llm.training.run import run_training
from tests.training.conftest import MakeRun


def train(run: Run, home: Path) -> list[Event]:
    """All events of a training to its end."""
    events: list[Event] = []
    run_training(run, home, on_event=events.append)
    return events


def test_too_little_memory_is_reported_before_the_first_step(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Memory(2_000_000, 1_000_000, "the control group's memory.max")
    monkeypatch.setattr(llm.training.setup, "memory", lambda: held)
    events = train(make_run("large", **{"train.batch_size": "64"}), tmp_path)
    warning = next(event for event in events if isinstance(event, Warned))
    assert "1 MB are free within the control group's memory.max" in warning.message
    assert events.index(warning) < next(place for place, event in enumerate(events) if isinstance(event, Started))


@pytest.mark.parametrize("field", ["d_model", "d_ff", "n_layer"])
def test_a_model_that_no_memory_here_can_hold_is_refused_before_the_text_is_read(
    make_run: MakeRun, tmp_path: Path, field: str
) -> None:
    run = make_run("wide", **{f"model.{field}": "10000000000", "train.device": "cpu"})
    events: list[Event] = []
    with pytest.raises(
        UserError, match=r"cannot train here: its weights, gradients and optimizer state take [\d,.]+ GB"
    ):
        run_training(run, tmp_path, on_event=events.append)
    assert [type(event) for event in events] == [Finished] and not (tmp_path / "data").exists()


def test_a_vocabulary_that_no_memory_here_can_hold_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("vocabulary", **{"model.vocab_size": "10000000000", "train.device": "cpu"})
    with pytest.raises(UserError, match="cannot train here"):
        run_training(run, tmp_path)


def test_no_room_for_a_copy_is_known_without_taking_any(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that exceeds the limit of a control group is killed: there is no error to catch."""

    def touched(tensors: object) -> None:
        raise AssertionError("memory was taken that is not there")

    monkeypatch.setattr(llm.training.state, "memory", lambda: Memory(1000, 1000, "the control group's memory.max"))
    monkeypatch.setattr(llm.training.state, "allocate_like", touched)
    run = make_run("tight")
    events = train(run, tmp_path)
    assert any("no memory for a copy" in event.message for event in events if isinstance(event, Warned))
    assert run.status().name == "finished"


def test_more_threads_than_processors_are_reported(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.training.setup, "usable_cores", lambda: 1)
    monkeypatch.setattr(llm.device, "machine_processors", lambda: 2)
    run = make_run("threads", **{"train.threads": "2"})
    said = [event.message for event in train(run, tmp_path) if isinstance(event, Warned)]
    assert [message for message in said if "threads" in message] == [
        "the run keeps its 2 threads, since results depend on their number, but may use only 1 processor; steps are "
        "slow until it gets more."
    ]
    assert not [event for event in train(make_run("one"), tmp_path) if isinstance(event, Warned)]


def test_no_configuration_asks_for_more_threads_than_the_machine_has(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.device, "machine_processors", lambda: 1)
    events = train(make_run("threads", **{"train.threads": "4000", "train.steps": "2"}), tmp_path)
    assert [event.threads for event in events if isinstance(event, Started)] == [1]
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "the run was to use 4,000 threads, and this machine has 1 processor: results differ by rounding."
    ]
