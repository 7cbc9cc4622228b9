"""A run's event log as arrays."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm.config import RunConfig
from llm.events import (
    AnswersEvaluated,
    CoreEvaluated,
    Evaluated,
    Finished,
    KnobSet,
    Paused,
    Progress,
    Resumed,
    RolledBack,
    Saved,
    to_line,
)
from llm.run import Run
from tests.workbench.scripted import TOTAL, loss_at, scripted_run, started_event, step_event, write_events
from workbench.charts import curve_cache
from workbench.charts.curves import RunCurves
from workbench.formatting import format_number
from workbench.train.panels import figures_line


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


def test_rolling_back_voids_the_last_evaluation_and_sample(home: Path) -> None:
    run = scripted_run(home, "a-1", 250)
    curves = RunCurves(run)
    curves.poll()
    first, second = (f"validation {format_number(loss)}" for loss in curves.validation["validation_loss"])
    assert second in figures_line(curves, 200).plain
    log = run.log()
    log.append(RolledBack(step=150, from_step=250, reason="not finite"))
    log.close()
    curves.poll()
    assert first in figures_line(curves, 200).plain
    assert [sample.step for sample in curves.samples] == [100]


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
    log.append(Progress(stage="Tokenizing", done=1, total=2))
    curves.poll()
    assert curves.progress is not None
    log.append(started_event())
    log.append(step_event(1))
    log.append(Paused(step=1))
    curves.poll()
    assert (curves.progress, curves.is_preparing, curves.paused) == (None, False, True)
    log.append(Resumed(step=1))
    log.append(Progress(stage="Evaluating", done=1, total=2, step=1))
    curves.poll()
    assert curves.progress is not None and not curves.is_preparing
    log.append(Evaluated(step=1, validation_loss=2.0, perplexity=7.4, bits_per_byte=1.0, tokens=9))
    curves.poll()
    assert curves.progress is None
    log.append(KnobSet(step=1, key="train.clip", value=0.5, previous=1.0))
    log.append(Saved(step=1, path="live/step-00000001", size_bytes=1, kind="snapshot"))
    curves.poll()
    assert not curves.paused
    assert curves.settings == {"train.clip": 0.5}
    assert [mark.kind for mark in curves.marks] == ["setting"]
    assert curves.seconds_left == (TOTAL - 1) * 0.05
    log.append(Finished(step=1, status="stopped"))
    curves.poll()
    assert curves.finished is not None
    assert curves.seconds_left is None
    log.close()


def test_the_time_left_does_not_follow_every_swing_of_the_pace(home: Path) -> None:
    run = Run.create(home, "a-1", RunConfig())
    curves, log = RunCurves(run), run.log()
    log.append(replace(started_event(), total_steps=10_000))
    told, elapsed = [], 0.0
    for step in range(1, 601):
        busy = step // 25 % 2  # for a few seconds on end, as where another program works now and then
        milliseconds = 5000.0 if step == 1 else 300.0 if busy else 100.0
        elapsed += milliseconds / 1000
        log.append(replace(step_event(step), step_ms=milliseconds, elapsed=elapsed))
        curves.poll()
        told.append(curves.seconds_left)
    log.close()
    left = [seconds for seconds in told if seconds is not None]
    assert len(left) == 600
    expected = [0.2 * (10_000 - step) for step in range(1, 601)]
    settled = range(400, 600)
    assert all(abs(left[i] / expected[i] - 1) < 0.15 for i in settled), "about the mean of both paces"
    assert all(abs(left[i + 1] - left[i]) < 0.02 * left[i] for i in settled[:-1])
    assert left[20] < 0.15 * 10_000, "one step that compiled does not count for all"


def long_run(home: Path, name: str, steps: int) -> Run:
    """Logged steps without anything between them, but for an evaluation, a setting and a value that is not finite."""
    run = Run.create(home, name, RunConfig())
    lines = [to_line(started_event())]
    for step in range(1, steps + 1):
        event = step_event(step)
        lines.append(to_line(replace(event, loss=float("nan")) if step == 7 else event))
        if step == steps // 2:
            lines.append(
                to_line(Evaluated(step=step, validation_loss=1.5, perplexity=4.5, bits_per_byte=0.5, tokens=9))
            )
            lines.append(to_line(KnobSet(step=step, key="train.clip", value=0.5, previous=1.0)))
    (run.path / "events.jsonl").write_bytes(b"".join(lines))
    return run


def one_by_one(run: Run) -> RunCurves:
    """The same log, read so that no stretch of steps is long."""
    curves = RunCurves(run)
    while curves.poll(limit=2000):
        pass
    return curves


def same(a: RunCurves, b: RunCurves) -> None:
    for name in ("steps", "validation", "core"):
        np.testing.assert_array_equal(getattr(a, name).array(), getattr(b, name).array())
    for name in (
        "marks",
        "samples",
        "started",
        "last_step",
        "finished",
        "settings",
        "recent",
        "step",
    ):
        assert getattr(a, name) == getattr(b, name), name


def test_long_stretches_of_steps_become_the_same_rows(home: Path) -> None:
    run = long_run(home, "long-1", 2003)
    curves = RunCurves(run)
    assert len(curves.poll()) < 20
    assert curves.steps["step"].tolist() == list(range(1, 2004))
    assert np.isnan(curves.steps["loss"][6])
    same(curves, one_by_one(run))


def test_a_resume_within_a_long_stretch_and_a_broken_line_in_it(home: Path) -> None:
    run = long_run(home, "long-1", 503)
    with (run.path / "events.jsonl").open("ab") as file:
        for step in range(401, 601):  # a killed run logs its last steps once more
            file.write(to_line(step_event(step)))
        file.write(b'{"type": "StepLogged", "step": 601, "lo\n')
        for step in range(602, 801):
            file.write(to_line(step_event(step)))
    curves = RunCurves(run)
    curves.poll()
    assert curves.steps["step"].tolist() == [*range(1, 601), *range(602, 801)]
    same(curves, one_by_one(run))


def test_what_was_read_is_recalled_and_only_the_rest_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_cache, "WORTH_BYTES", 1)
    run = long_run(home, "long-1", 1009)
    line = to_line(step_event(1010))
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(line[:50])  # the writer is in the middle of a line
    first = curve_cache.load_cache(run)
    assert len(first.steps) == 0
    first.catch_up()
    assert curve_cache.save_cache(first)
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(line[50:])
        file.write(to_line(CoreEvaluated(step=1010, core_metric=0.25, tasks={"a": 0.5}, centred={"a": 0.25})))
        file.write(to_line(AnswersEvaluated(step=1010, exact_answers=0.75, kinds={"who": 0.75}, questions=4)))
    again = curve_cache.load_cache(run)
    assert len(again.steps) == 1009
    again.catch_up()
    assert again.steps["step"][-1] == 1010
    assert again.core["core_metric"].tolist() == [0.25]
    assert again.answers["exact_answers"].tolist() == [0.75]
    assert curve_cache.save_cache(again)
    assert curve_cache.load_cache(run).answers["exact_answers"].tolist() == [0.75]
    same(again, one_by_one(run))


def test_another_log_or_a_damaged_cache_is_not_recalled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_cache, "WORTH_BYTES", 1)
    run = long_run(home, "long-1", 211)
    curves = RunCurves(run)
    curves.catch_up()
    assert curve_cache.save_cache(curves)
    path = curve_cache.cache_path(curves)
    whole = path.read_bytes()
    last = whole.rindex(b"PK\x01\x02") + 8  # the flags of the last member
    encrypted = whole[:last] + bytes([whole[last] | 1]) + whole[last + 1 :]
    for damaged in (b"", whole[:-500], b"PK" + bytes(300), encrypted, pickle.dumps({"head": 1})):
        path.write_bytes(damaged)
        assert len(curve_cache.load_cache(run).steps) == 0
    path.write_bytes(whole)
    assert len(curve_cache.load_cache(run).steps) == 211
    log = run.path / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"step": 211', b'"step": 212'))
    assert len(curve_cache.load_cache(run).steps) == 0
    log.unlink()
    assert len(curve_cache.load_cache(run).steps) == 0


def test_axes_of_steps_tokens_and_time(home: Path) -> None:
    curves = RunCurves(scripted_run(home, "a-1", 307))
    curves.poll()
    np.testing.assert_allclose(curves.x_of(curves.steps, "time"), 0.05 * np.arange(1, 308))
    assert curves.x_of(curves.steps, "tokens")[-1] == 307 * 2048
    assert curves.x_of(curves.validation, "tokens").tolist() == [100 * 2048, 200 * 2048, 300 * 2048]
    assert curves.x_at(np.array([150.5]), "tokens").tolist() == [150.5 * 2048]


def test_the_best_evaluation_is_the_lowest_that_is_finite(home: Path) -> None:
    run = Run.create(home, "a-1", RunConfig())
    log = run.log()
    for step, loss in ((10, 3.0), (20, 2.0), (30, float("nan")), (40, 2.5)):
        log.append(Evaluated(step=step, validation_loss=loss, perplexity=1.0, bits_per_byte=1.0, tokens=1))
    log.close()
    curves = RunCurves(run)
    assert curves.best_evaluation is None
    curves.poll()
    assert curves.best_evaluation == (20, 2.0)
