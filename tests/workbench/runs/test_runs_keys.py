"""Keys of the Runs screen that lead to further screens: marking, overlay, comparison, forks, queue, trash, data."""

from __future__ import annotations

import shutil
import threading

import pytest
from textual.widgets import Input, Static

from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.runs.screen_for_tests import RunsApp, home_with_runs, names, opened, select_run
from tests.workbench.runs_for_tests import make_run
from tests.workbench.scripted import prepared_trainer, scripted_run
from tests.workbench.waiting import shown, until, was_notified
from workbench.charts import curve_cache
from workbench.charts.chart import Chart
from workbench.charts.curves import RunCurves
from workbench.presets.screen import PresetsScreen
from workbench.runs.compare_dialog import CompareScreen
from workbench.runs.fork_screen import ForkScreen
from workbench.runs.overlay_screen import OverlayScreen
from workbench.train.queue_screen import QueueScreen
from workbench.train.service import TrainingService
from workbench.ui.dialogs import Ask, AskText
from workbench.ui.messages import TrainingEnded


async def test_marked_runs_are_overlaid(tmp_path):
    for place, name in enumerate(("a-1", "b-1", "c-1")):
        scripted_run(tmp_path, name, 200 + 100 * place, end="stopped")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 3)
        await pilot.press("s")
        await select_run(pilot, screen, "a-1")
        await pilot.press("space", "space")
        assert screen.runs_table.marked == ["a-1", "b-1"] and screen.runs_table.current == "c-1"
        assert "●2 b-1" in shown(screen)
        await pilot.press("k", "space")
        assert screen.runs_table.marked == ["a-1"]
        await pilot.press("space", "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, OverlayScreen))
        overlay = pilot.app.screen
        chart = overlay.query_one(Chart)
        await until(pilot, lambda: [len(one.x) for one in chart.data.series] == [2, 4])
        await until(pilot, lambda: "a-1" in shown(overlay) and "c-1" in shown(overlay))
        await pilot.press("v")
        assert overlay.metric.id == "loss" and len(chart.data.series[1].x) == 400
        await pilot.press("u")
        assert chart.x_unit == "tokens" and chart.extent()[1] == 400 * 2048
        await pilot.press("V", "u")
        assert chart.x_unit == "time" and abs(chart.data.series[1].x[-1] - 400 * 0.05) < 1e-6
        log = Run.open(tmp_path, "a-1").log()
        from tests.workbench.scripted import write_events

        write_events(log, 201, 300)
        log.close()
        await until(pilot, lambda: len(chart.data.series[0].x) == 3)
        await pilot.press("escape")
        assert pilot.app.screen is screen


async def test_a_run_is_reinforced_on_a_chosen_task(trained_run, tmp_path, monkeypatch):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    monkeypatch.setattr(TrainingService, "begin", lambda service, run, overrides=(): True)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        await select_run(pilot, screen, "tiny-1")
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask) and "small sums" in shown(pilot.app.screen))
        await pilot.press("j", "j", "j", "enter")
        await until(pilot, lambda: (tmp_path / "runs" / "tiny-1-grpo-1").exists())
        tune = Run.open(tmp_path, "tiny-1-grpo-1").config().tune
        assert (tune.stage, tune.task) == ("grpo", "counting")
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskText) and "chosen" in shown(pilot.app.screen))


async def test_two_configurations_are_compared(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        await pilot.press("equals_sign")
        assert pilot.app.screen is screen, "there is nothing to compare with"
        await select_run(pilot, screen, "alpha-1")
        await pilot.press("space")
        await select_run(pilot, screen, "beta-1")
        await pilot.press("equals_sign")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen))
        await until(pilot, lambda: "1 field differs" in shown(pilot.app.screen))
        text = shown(pilot.app.screen)
        assert "data.corpus" in text and "pylib" in text and "train.lr" not in text
        await pilot.press("a", "G")
        await until(pilot, lambda: "decode.seed" in shown(pilot.app.screen))
        await pilot.press("escape")
        assert pilot.app.screen is screen


@pytest.mark.parametrize(
    ("width", "shown_of_it"), [(80, "/texts/a/long/way/down/to/th…"), (200, "/texts/a/long/way/down/to/the/corpus.txt")]
)
async def test_both_values_stand_side_by_side_however_long(tmp_path, width, shown_of_it):
    make_run(tmp_path, "alpha-1", steps=2, corpus="/texts/a/long/way/down/to/the/corpus.txt" + "x" * 200)
    make_run(tmp_path, "beta-1", steps=3, corpus="pylib")
    async with RunsApp(tmp_path).run_test(size=(width, 24)) as pilot:
        screen = await opened(pilot, 2)
        await select_run(pilot, screen, "alpha-1")
        await pilot.press("space")
        await select_run(pilot, screen, "beta-1")
        await pilot.press("equals_sign")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen))
        await until(pilot, lambda: "data.corpus" in shown(pilot.app.screen))
        line = next(line for line in shown(pilot.app.screen).splitlines() if "data.corpus" in line)
        assert shown_of_it in line and "…" in line and line.split()[-1] == "pylib"
        await pilot.resize_terminal(60, 24)
        await until(pilot, lambda: line not in shown(pilot.app.screen) and "pylib" in shown(pilot.app.screen))


async def test_forks_below_their_parents_tags_and_export(tmp_path):
    home_with_runs(tmp_path)
    Run.create(tmp_path, "child-1", Run.open(tmp_path, "alpha-1").config(), parent="alpha-1@4")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 3)
        await pilot.press("s", "l")
        assert names(screen) == ["alpha-1", "child-1", "beta-1"]
        assert "└ child-1" in shown(screen)
        await select_run(pilot, screen, "beta-1")
        await pilot.press("T")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskText))
        await pilot.press(*"good, best", "enter")
        await until(pilot, lambda: screen.current and screen.current.tags == ("best", "good"))
        await pilot.press("e")
        target = tmp_path / "exports" / "beta-1.csv"
        await until(pilot, target.exists)
        assert len(target.read_text().splitlines()) == 10
        await pilot.press("l")
        assert names(screen) == ["alpha-1", "beta-1", "child-1"]


async def test_a_fork_is_edited_and_started(trained_home):
    app = RunsApp(trained_home)
    begun = []
    app.training.begin = lambda run, overrides=(): begun.append(run.name) or True
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        await until(pilot, lambda: screen.checkpoint_table.run_name == "tiny-1")
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, ForkScreen))
        form = app.screen
        title = lambda: str(form.query_one("#edit-title", Static).render())  # noqa: E731
        assert "fork of tiny-1@20: continues at step 20" in title() and "train.steps 20 → 40" in title()
        form.listing.highlighted = next(
            index
            for index in range(form.listing.option_count)
            if form.listing.get_option_at_index(index).id == "optim.kind"
        )
        await pilot.press("space")
        await until(pilot, lambda: "since the optimizer changes" in title() and "optim.kind adamw → sgd" in title())
        await pilot.press("d", "w")
        await until(pilot, lambda: "weights only, from step 0" in title() and "optim" not in title())
        form.listing.highlighted = next(
            index
            for index in range(form.listing.option_count)
            if form.listing.get_option_at_index(index).id == "model.n_layer"
        )
        await pilot.press("enter")
        form.query_one("#edit-value", Input).value = "3"
        await pilot.press("enter", "ctrl+r")
        await until(pilot, lambda: "model.n_layer: cannot change" in str(form.query_one("#edit-problem").render()))
        assert app.screen is form, "a fork of another shape is refused"
        await pilot.press("d", "w", "escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, ForkScreen))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: type(app.screen) is Ask and "to 5.00e-03 at step 21" in app.screen.question)
        await pilot.press("down", "enter")  # keep the rate
        await until(pilot, lambda: begun == ["tiny-1-fork-1"] and app.sent == [("train", "tiny-1-fork-1")])
        child = Run.open(trained_home, "tiny-1-fork-1")
        assert child.info()["parent"] == "tiny-1@20" and child.config().train.steps == 40
        assert child.config().schedule.kind == "constant"
        await pilot.press("enter", "j", "f")
        await until(pilot, lambda: isinstance(app.screen, ForkScreen))
        assert "tiny-1" in app.screen.preset_name
        await pilot.press("Q")
        second = trained_home / "runs" / "tiny-1-fork-2"
        await until(pilot, lambda: second.exists() and Run(second).status().name == "finished")
        assert app.queue.names() == [], "nothing trained, so it began at once"


async def test_a_fork_of_a_run_without_checkpoints_is_explained(tmp_path):
    make_run(tmp_path, "bare-1")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await opened(pilot, 1)
        await pilot.press("f")
        await until(pilot, lambda: was_notified(pilot.app, "no checkpoint yet"))


async def test_the_queue_is_served_while_the_workbench_is_open(home):
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and app.screen.current)
        preset = app.screen.current
        await pilot.press("Q")
        await until(pilot, lambda: app.training.active == f"{preset}-1")
        await pilot.press("Q")
        await until(pilot, lambda: app.queue.names() == [f"{preset}-2"])
        make_run(home, "z-1", steps=3, end="stopped")
        await pilot.press("3")
        screen = await opened_in(pilot, app, 3)
        await select_run(pilot, screen, "z-1")
        await pilot.press("Q", "Q", "w")
        await until(pilot, lambda: isinstance(app.screen, QueueScreen))
        waiting = app.screen
        assert app.queue.names() == [f"{preset}-2", "z-1"]
        await pilot.press("J")
        assert app.queue.names() == ["z-1", f"{preset}-2"] and waiting.table.current == f"{preset}-2"
        await pilot.press("K")
        assert app.queue.names() == [f"{preset}-2", "z-1"]
        app.training.request_stop()
        await until(pilot, lambda: app.training.active == f"{preset}-2")
        waiting.reload()
        await pilot.press("d")
        assert app.queue.names() == [] and Run.open(home, "z-1")
        await pilot.press("escape", "Q", "w")
        await until(pilot, lambda: isinstance(app.screen, QueueScreen))
        assert app.queue.names() == ["z-1"]
        app.training.request_stop()
        await until(pilot, lambda: app.training.active == "z-1")
        app.training.request_stop()
        await until(pilot, lambda: app.training.active is None)
        app.queue.add(Run.open(home, "z-1"))
        app.screen.reload()
        await pilot.press("b")
        await until(pilot, lambda: app.training.active == "z-1")
        app.training.request_stop()
        await until(pilot, lambda: app.training.active is None)


async def opened_in(pilot, app, count):
    await until(pilot, lambda: app.current_mode == "runs" and len(names(app.screen)) == count)
    return app.screen


async def test_a_queue_from_earlier_waits_to_be_asked(tmp_path):
    app = RunsApp(tmp_path)
    app.queue.add(make_run(tmp_path, "a-1"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: was_notified(app, "1 run is in the queue"))
        app.post_message(TrainingEnded("another-1"))  # looks after the queue at once
        await pilot.pause()
        assert app.queue.names() == ["a-1"] and app.training.active is None


async def test_an_overlay_says_how_far_it_has_read_and_reads_a_log_once(tmp_path, monkeypatch):
    for name in ("a-1", "b-1"):
        scripted_run(tmp_path, name, 200, end="stopped")
    monkeypatch.setattr(curve_cache, "WORTH_BYTES", 1)
    go_on, catch_up, unread = threading.Event(), RunCurves.catch_up, []

    def slowly(curves, progress):
        unread.append(curves.unread_bytes)
        progress(0.5)
        go_on.wait(30)
        catch_up(curves, progress)

    monkeypatch.setattr(RunCurves, "catch_up", slowly)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        await pilot.press("s")
        await select_run(pilot, screen, "a-1")
        await pilot.press("space", "space", "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, OverlayScreen))
        await until(pilot, lambda: shown(pilot.app.screen).count("Reading the logs, 25%") == 2)
        go_on.set()
        chart = pilot.app.screen.query_one(Chart)
        await until(pilot, lambda: [len(one.x) for one in chart.data.series] == [2, 2])
        await until(pilot, lambda: "reading" not in shown(pilot.app.screen))
        assert len(unread) == 2 and all(unread)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, OverlayScreen))
        chart = pilot.app.screen.query_one(Chart)
        await until(pilot, lambda: [len(one.x) for one in chart.data.series] == [2, 2])
        assert unread[2:] == [0, 0]


async def test_the_only_chart_of_a_screen_has_no_key_to_maximise_it(tmp_path):
    scripted_run(tmp_path, "a-1", 200, end="stopped")
    async with RunsApp(tmp_path).run_test(size=(160, 24)) as pilot:
        await opened(pilot, 1)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, OverlayScreen))
        await until(pilot, lambda: "y Log axis" in shown(pilot.app.screen))
        assert "m Maximise" not in shown(pilot.app.screen)
