"""A run's event log as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm.config import RunConfig
from llm.events import Evaluated, Finished, KnobSet, Paused, Progress, Resumed, RolledBack, Saved, to_line
from llm.run import Run
from tests.workbench.scripted import TOTAL, loss_at, scripted_run, started_event, step_event, write_events
from workbench.services.curves import RunCurves


def test_steps_and_evaluations_arrive_as_arrays(home: Path) -> None:
    curves = RunCurves(scripted_run(home, "a-1", 307))
    curves.poll()
    assert curves.steps["step"].tolist() == list(range(1, 308))
    np.testing.assert_array_equal(curves.steps["loss"], [loss_at(step) for step in range(1, 308)])
    assert curves.validation["step"].tolist() == [100, 200, 300]
    assert curves.step == 307
    assert curves.total_steps == TOTAL
    assert [mark.step for mark in curves.marks] == [100, 200, 300]
    assert curves.samples[-1].step == 300
    assert len(curves.samples) == 2


def test_only_what_is_new_is_taken_in(home: Path) -> None:
    run = scripted_run(home, "a-1", 5)
    curves = RunCurves(run)
    assert len(curves.poll()) == 7
    assert curves.poll() == []
    log = run.log()
    write_events(log, 6, 8)
    log.close()
    assert len(curves.poll()) == 3
    assert curves.steps["step"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_in_pieces_the_result_is_the_same(home: Path) -> None:
    run = scripted_run(home, "a-1", 150)
    whole, pieces = RunCurves(run), RunCurves(run)
    whole.poll()
    while pieces.poll(limit=1000):
        pass
    np.testing.assert_array_equal(whole.steps["loss"], pieces.steps["loss"])


def test_resuming_voids_later_steps(home: Path) -> None:
    run = scripted_run(home, "a-1", 250)
    log = run.log()
    log.append(started_event(step=170))
    write_events(log, 171, 173)
    log.close()
    curves = RunCurves(run)
    curves.poll()
    assert curves.steps["step"].tolist() == list(range(1, 174))
    assert curves.validation["step"].tolist() == [100]
    assert [mark.step for mark in curves.marks] == [100]
    assert curves.step == 173


def test_rolling_back_voids_later_steps_and_is_marked(home: Path) -> None:
    run = scripted_run(home, "a-1", 120)
    log = run.log()
    log.append(RolledBack(step=100, from_step=120, reason="not finite"))
    log.close()
    curves = RunCurves(run)
    curves.poll()
    assert curves.steps["step"][-1] == 100
    assert curves.marks[-1].kind == "rollback"


def test_values_that_are_not_finite_stay_in_the_arrays(home: Path) -> None:
    run = scripted_run(home, "a-1", 3)
    log = run.log()
    for step, loss in ((4, float("nan")), (5, float("inf"))):
        event = step_event(step)
        log.append(type(event)(**{**vars(event), "loss": loss}))
    log.append(
        Evaluated(step=5, validation_loss=float("nan"), perplexity=float("nan"), bits_per_byte=float("nan"), tokens=1)
    )
    log.close()
    curves = RunCurves(run)
    curves.poll()
    assert np.isnan(curves.steps["loss"][3])
    assert np.isinf(curves.steps["loss"][4])
    assert curves.best_validation is None


def test_a_torn_line_is_not_yet_an_event(home: Path) -> None:
    run = scripted_run(home, "a-1", 3)
    line = to_line(step_event(4))
    path = run.path / "events.jsonl"
    with path.open("ab") as file:
        file.write(line[:40])
    curves = RunCurves(run)
    curves.poll()
    assert len(curves.steps) == 3
    with path.open("ab") as file:
        file.write(line[40:])
    curves.poll()
    assert len(curves.steps) == 4


def test_state_of_a_run(home: Path) -> None:
    run = Run.create(home, "a-1", RunConfig())
    curves, log = RunCurves(run), run.log()
    curves.poll()
    assert curves.is_preparing
    log.append(Progress(stage="Tokenising", done=1, total=2))
    curves.poll()
    assert curves.progress is not None
    log.append(started_event())
    log.append(step_event(1))
    log.append(Paused(step=1))
    curves.poll()
    assert (curves.progress, curves.is_preparing, curves.paused) == (None, False, True)
    log.append(Resumed(step=1))
    log.append(KnobSet(step=1, key="train.clip", value=0.5, previous=1.0))
    log.append(Saved(step=1, path="live/step-00000001", size_bytes=1, kind="snapshot"))
    curves.poll()
    assert not curves.paused
    assert curves.knobs == {"train.clip": 0.5}
    assert [mark.kind for mark in curves.marks] == ["knob"]
    assert curves.seconds_left == (TOTAL - 1) * 0.05
    log.append(Finished(step=1, status="stopped"))
    curves.poll()
    assert curves.finished is not None
    assert curves.seconds_left is None
    log.close()
