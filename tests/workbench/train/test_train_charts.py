"""The charts of the Train screen: what they show, their keys, marks and axes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from llm.events import AnswersEvaluated, CoreEvaluated, KnobSet, MetricsLogged, Skipped
from tests.workbench.opening import app_with, open_train_screen
from tests.workbench.scripted import loss_at, scripted_run, step_event
from tests.workbench.waiting import shown, until
from workbench.charts.chart import Chart


async def test_charts_by_key(home: Path) -> None:
    scripted_run(home, "old-1", 120, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        loss = screen.query_one("#loss-chart", Chart)
        await pilot.press("y", "right_square_bracket")
        await until(pilot, lambda: loss.log_axis and loss.smoothing > 0.8)
        await pilot.press("v")
        await until(pilot, lambda: "learning rate" in shown(screen) and "loss (nats" not in shown(screen))
        await pilot.press("m")
        await until(pilot, lambda: "who found" not in shown(screen))
        await pilot.press("escape")
        await until(pilot, lambda: "who found" in shown(screen))


async def test_losses_that_are_no_numbers_are_shown_as_what_they_are(home: Path) -> None:
    run = scripted_run(home, "old-1", 60)
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        log = run.log()
        log.append(replace(step_event(61), loss=math.nan, grad_norm=math.inf))
        await until(pilot, lambda: "loss —" in shown(screen) and "train —" in shown(screen))
        log.append(replace(step_event(62), loss=math.inf))
        await until(pilot, lambda: "loss ∞" in shown(screen))
        log.append(step_event(63))
        await until(pilot, lambda: f"loss {loss_at(63):.3f}" in shown(screen))
        log.close()
        loss = screen.query_one("#loss-chart", Chart).data.series[0]
        assert [math.isnan(value) for value in loss.y[-4:]] == [False, True, True, False]


async def test_the_axis_is_steps_tokens_or_time(home: Path) -> None:
    scripted_run(home, "old-1", 330, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        loss = screen.query_one("#loss-chart", Chart)
        await until(pilot, lambda: not loss.data.is_empty)
        assert loss.extent() == (1, 330)
        await pilot.press("u")
        await until(pilot, lambda: loss.extent() == (2048, 330 * 2048))
        await pilot.press("u")
        await until(pilot, lambda: abs(loss.extent()[1] - 16.5) < 1e-6 and loss.x_unit == "time")
        assert [round(mark.x, 6) for mark in loss.data.marks] == [5.0, 10.0, 15.0, 15.0]
        await pilot.press("u")
        await until(pilot, lambda: loss.extent() == (1, 330))


async def test_saves_settings_skipped_steps_and_the_best_evaluation_are_marked(home: Path) -> None:
    run = scripted_run(home, "old-1", 330)
    log = run.log()
    log.append(KnobSet(step=330, key="train.clip", value=0.5, previous=1.0))
    log.append(Skipped(step=250, reason="not finite", loss=float("nan"), grad_norm=1.0))
    log.close()
    app = app_with(home)
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        loss = screen.query_one("#loss-chart", Chart)
        await until(pilot, lambda: not loss.data.is_empty)
        assert [mark.kind for mark in loss.data.marks] == ["save"] * 3 + ["setting", "best", "skip"]
        assert (loss.data.marks[-2].x, loss.data.marks[-2].label) == (300, "best validation 1.804")
        assert [mark.kind for mark in screen.query_one("#norm-chart", Chart).data.marks] == ["skip"]
        for glyph in ("▪", "★", "✗"):
            assert glyph in shown(screen)


async def test_the_core_metric_gets_a_chart_and_a_figure_when_there_is_one(home: Path) -> None:
    run = scripted_run(home, "old-1", 150)
    app = app_with(home)
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: "1.279M" in shown(screen))
        assert "CORE" not in shown(screen)
        log = run.log()
        log.append(CoreEvaluated(step=150, core_metric=0.1234, tasks={"a": 0.5}, centred={"a": 0.1234}))
        log.close()
        await until(pilot, lambda: "CORE 0.1234" in shown(screen) and "CORE metric" in shown(screen))
        await pilot.press("v", "v", "v", "v")
        await until(pilot, lambda: screen.query_one("#core-chart", Chart).has_class("chosen"))
        await pilot.press("m")
        await until(pilot, lambda: "CORE metric" in shown(screen) and "gradient norm" not in shown(screen))


async def test_exact_answers_and_a_reward_get_charts_when_there_are_some(home: Path) -> None:
    run = scripted_run(home, "old-1", 150)
    app = app_with(home)
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        log = run.log()
        log.append(AnswersEvaluated(step=150, exact_answers=0.25, kinds={"sum": 0.5, "who": 0.0}, questions=64))
        await until(pilot, lambda: "exact answers 25%" in shown(screen))
        assert "exact answers 25.0% of 64 questions: sum 50%, who 0%" in shown(screen)
        assert screen.query_one("#core-chart", Chart).data.series[0].y.tolist() == [0.25]
        log.append(MetricsLogged(step=150, metrics={"reward": 0.125, "kl": 0.01, "entropy": 0.5}))
        log.close()
        await until(pilot, lambda: "reward and exact answers" in shown(screen) and "reward 0.12" in shown(screen))
        assert "KL to the reference" in shown(screen)
        shares = [series.y.tolist() for series in screen.query_one("#loss-chart", Chart).data.series]
        assert shares == [[0.125], [0.25]]
        assert [series.y.tolist() for series in screen.query_one("#core-chart", Chart).data.series] == [[0.01], [0.5]]
