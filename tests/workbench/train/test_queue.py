"""The line of runs, and whose turn it is."""

from __future__ import annotations

import pytest

from llm.errors import UserError, WrongUse
from llm.run import Run
from tests.workbench.runs_for_tests import make_run
from workbench.train.queue import QueueRunner, RunQueue


def three_waiting(home):
    queue = RunQueue(home)
    for name in ("a-1", "b-1", "c-1"):
        queue.add(make_run(home, name))
    return queue


def test_first_come_first_served_and_reordered(tmp_path):
    queue = three_waiting(tmp_path)
    assert RunQueue(tmp_path).names() == ["a-1", "b-1", "c-1"]
    queue.move("c-1", -1)
    queue.move("a-1", 9)
    queue.move("c-1", -9)
    assert queue.names() == ["c-1", "b-1", "a-1"]
    queue.remove("b-1")
    queue.remove("never")
    assert queue.take().name == "c-1"
    assert queue.names() == ["a-1"]
    assert queue.take().name == "a-1" and queue.take() is None


def test_what_cannot_wait(tmp_path):
    queue = three_waiting(tmp_path)
    assert queue.add(make_run(tmp_path, "d-1", steps=3, end="stopped")) == 4
    with pytest.raises(WrongUse, match="is in the queue already"):
        queue.add(Run.open(tmp_path, "d-1"))
    with pytest.raises(WrongUse, match="is finished"):
        queue.add(make_run(tmp_path, "e-1", steps=3))
    busy = make_run(tmp_path, "f-1")
    with busy.lock(), pytest.raises(WrongUse, match="is in training"):
        queue.add(busy)
    assert queue.names()[-1] == "d-1"


def test_deleted_and_renamed_runs_and_a_damaged_file(tmp_path):
    queue = three_waiting(tmp_path)
    (tmp_path / "runs" / "a-1").rename(tmp_path / "gone")
    (tmp_path / "runs" / "b-1").rename(tmp_path / "runs" / "better")
    queue.rename("b-1", "better")
    assert queue.names() == ["better", "c-1"]
    (tmp_path / "queue.json").write_text('{"format": 1, "runs": [')
    assert queue.names() == []
    queue.add(Run.open(tmp_path, "better"))
    assert queue.names() == ["better"]


def test_the_next_starts_when_the_one_before_has_ended(tmp_path):
    queue, begun, busy = three_waiting(tmp_path), [], {"now-1"}

    def begin(run):
        begun.append(run.name)
        if run.name == "b-1":
            raise UserError("its text is gone.")
        busy.add(run.name)

    runner = QueueRunner(queue, begin, busy.__contains__)
    assert not runner.is_due(), "what was left from earlier does not start by itself"
    runner.follow("now-1")
    assert not runner.is_due()
    busy.clear()
    assert runner.is_due() and runner.start_next().name == "a-1"
    assert not runner.is_due()
    busy.clear()
    with pytest.raises(UserError):
        runner.start_next()
    assert runner.is_due(), "one that cannot begin does not hold up the line"
    assert runner.start_next().name == "c-1"
    busy.clear()
    assert runner.start_next() is None and not runner.is_due()
    assert begun == ["a-1", "b-1", "c-1"]
