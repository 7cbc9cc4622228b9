"""`train.batch_size = 0`: the micro-batch is chosen by the memory, once, and changes nothing else about a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.errors import UserError
from llm.events import Event, Progress, Started
from llm.limits import Memory
from llm.training import micro_batch
from llm.training.run import run_training

from .conftest import MakeRun
from .test_faults import out_of_memory_above
from .test_resume import StopAfter, assert_same_end

CHOSEN = {"train__batch_size": "0", "train__total_batch_tokens": str(6 * 16)}


def test_the_largest_that_fits_is_kept_and_resumes_bit_for_bit(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six sequences not 6 and not 3 fit; later memory is plentiful, and the run keeps its 2."""
    run, events = make_run("chosen", **CHOSEN), list[Event]()
    with monkeypatch.context() as patch:
        out_of_memory_above(2, patch)
        assert run_training(run, tmp_path, commands=StopAfter(9), on_event=events.append).status == "stopped"
    run_training(run, tmp_path, on_event=events.append)
    assert [event.micro_batch for event in events if isinstance(event, Started)] == [2, 2]
    searched = [event.done for event in events if isinstance(event, Progress) and event.stage.startswith("Finding")]
    assert searched == [0, 1, 2], "the resumed run does not search again"
    plain = make_run("plain", train__batch_size="2", train__accumulation="3")
    run_training(plain, tmp_path)
    assert_same_end(plain, run)


def test_the_estimate_keeps_a_cpu_from_trying_what_would_end_the_process(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, events = make_run("chosen", **CHOSEN, train__steps="1"), list[Event]()
    monkeypatch.setattr(micro_batch, "memory", lambda: Memory(10**9, 1))
    run_training(run, tmp_path, on_event=events.append)
    assert [event.micro_batch for event in events if isinstance(event, Started)] == [1]


def test_not_even_one_sequence_is_a_sentence(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_above(0, monkeypatch)
    with pytest.raises(UserError, match="a step with one sequence of 16 tokens does not fit in memory"):
        run_training(make_run("chosen", **CHOSEN), tmp_path)
