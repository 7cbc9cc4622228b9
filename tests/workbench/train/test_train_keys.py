"""Every key of the Train screen and of a chart: pressed in the app, with its effect seen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input, RichLog

from llm.config import RunConfig, get_value
from llm.errors import ConfigError
from llm.training.commands import set_live_field
from tests.workbench.opening import app_with
from tests.workbench.runs_for_tests import make_run
from tests.workbench.scripted import ScriptedTrainer, prepared_trainer, scripted_run, write_events
from tests.workbench.waiting import shown, until, was_notified
from workbench.charts.chart import Chart
from workbench.train.chart_grid import CHART_KEYS
from workbench.train.compare_dialog import ChooseRuns
from workbench.train.screen import TrainScreen
from workbench.train.settings_dialog import LiveSettingsDialog
from workbench.ui.dialogs import Ask, AskText

Effect = Callable[[TrainScreen, Chart], object]


@asynccontextmanager
async def ended_run(home: Path, size: tuple[int, int] = (160, 50)) -> AsyncIterator[tuple[Pilot[int], TrainScreen]]:
    """The screen on a run that has ended, nothing focused."""
    scripted_run(home, "old-1", 330, end="stopped")
    app = app_with(home, watch="old-1")
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "ended")
        assert isinstance(app.screen, TrainScreen)
        await until(pilot, lambda: not app.screen.query_one("#loss-chart", Chart).data.is_empty)
        assert app.focused is None
        yield pilot, app.screen


@asynccontextmanager
async def running_run(home: Path) -> AsyncIterator[tuple[Pilot[int], TrainScreen, ScriptedTrainer]]:
    """The screen on a run that trains in this program."""
    trainer = prepared_trainer(120)
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 40)) as pilot:
        app.training.start(RunConfig(), "quick")
        app.open_train("quick-1")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.state == "running")
        assert isinstance(app.screen, TrainScreen)
        yield pilot, app.screen, trainer
        app.training.shutdown()


CHART_EFFECTS: dict[str, tuple[str, Effect, str]] = {
    "plus": ("plus", lambda screen, chart: chart.view is not None and chart.view[1] - chart.view[0] < 200, "0"),
    "equals_sign": ("equals_sign", lambda screen, chart: chart.view is not None, "0"),
    "minus": ("plus plus minus", lambda screen, chart: chart.view == (83.25, 247.75), "0"),
    "0": ("plus 0", lambda screen, chart: chart.view is None, ""),
    "left": ("plus left", lambda screen, chart: chart.view == (42.125, 206.625), "0"),
    "h": ("plus h", lambda screen, chart: chart.view == (42.125, 206.625), "0"),
    "right": ("plus right", lambda screen, chart: chart.view == (124.375, 288.875), "0"),
    "l": ("plus l", lambda screen, chart: chart.view == (124.375, 288.875), "0"),
    "end": ("plus end", lambda screen, chart: chart.view is not None and chart.view[1] == 330, "0"),
    "comma": ("comma", lambda screen, chart: chart.cursor == 330, "backspace"),
    "full_stop": ("full_stop", lambda screen, chart: chart.cursor == 1, "backspace"),
    "less_than_sign": ("comma less_than_sign", lambda screen, chart: 200 < (chart.cursor or 0) < 320, "backspace"),
    "greater_than_sign": (
        "full_stop greater_than_sign",
        lambda screen, chart: 10 < (chart.cursor or 0) < 130,
        "backspace",
    ),
    "backspace": ("comma backspace", lambda screen, chart: chart.cursor is None, ""),
    "y": ("y", lambda screen, chart: chart.log_axis, "y"),
    "left_square_bracket": (
        "left_square_bracket",
        lambda screen, chart: chart.smoothing == 0.6,
        "right_square_bracket",
    ),
    "right_square_bracket": (
        "right_square_bracket",
        lambda screen, chart: chart.smoothing == 0.9,
        "left_square_bracket",
    ),
    "m": ("m", lambda screen, chart: screen.has_class("one-chart") and chart.size.height > 30, "escape"),
    "w": ("w", lambda screen, chart: (screen.workbench.home / "exports" / "old-1-loss.csv").exists(), ""),
    "W": ("W", lambda screen, chart: (screen.workbench.home / "exports" / "old-1-loss.svg").exists(), ""),
}
"""For each key the keys to press, the effect that is seen then, and the key that undoes it."""


def keys_of(bindings: list[Binding]) -> set[str]:
    return {key for binding in bindings for key in binding.key.split(",")}


def test_no_key_of_the_charts_is_left_out() -> None:
    assert set(CHART_EFFECTS) == keys_of(CHART_KEYS)


async def test_every_chart_key_acts_on_the_chart_used_last_wherever_the_focus_is(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        chart = screen.query_one("#loss-chart", Chart)
        for presses, effect, undo in CHART_EFFECTS.values():
            assert not effect(screen, chart) or presses in ("plus 0", "comma backspace")
            await pilot.press(*presses.split())
            await until(pilot, lambda effect=effect: effect(screen, chart), what=presses)  # type: ignore[misc]
            await pilot.press(*undo.split())


async def test_the_chart_with_the_focus_gets_the_keys_and_all_charts_move_together(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        loss, rate = screen.query_one("#loss-chart", Chart), screen.query_one("#lr-chart", Chart)
        await pilot.press("tab", "tab", "y")
        await until(pilot, lambda: rate.log_axis and not loss.log_axis)
        assert screen.focused is rate
        await pilot.press("plus", "end")
        await until(pilot, lambda: loss.view == rate.view == (165.5, 330.0))
        await pilot.press("comma")
        await until(pilot, lambda: loss.cursor == rate.cursor == 330)
        screen.set_focus(None)
        await pilot.press("y")
        await until(pilot, lambda: not rate.log_axis)


async def test_all_charts_follow_the_newest_once_one_does(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        assert screen.curves is not None
        await pilot.press("plus", "end")
        log = screen.curves.run.log()
        write_events(log, 331, 350)
        log.close()
        charts = [chart for chart in screen.query(Chart) if chart.display]
        assert len(charts) == 4
        await until(pilot, lambda: all(chart.view == (185.5, 350.0) for chart in charts))


async def test_tab_and_the_keys_for_the_next_chart_the_axis_and_all_charts(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        await pilot.press("v")
        await until(pilot, lambda: screen.focused is screen.query_one("#lr-chart"))
        await pilot.press("shift+tab")
        await until(pilot, lambda: screen.focused is screen.query_one("#loss-chart"))
        await pilot.press("u")
        await until(pilot, lambda: screen.query_one("#loss-chart", Chart).x_unit == "tokens")
        await pilot.press("m")
        await until(pilot, lambda: screen.has_class("one-chart"))
        await pilot.press("escape")
        await until(pilot, lambda: not screen.has_class("one-chart") and "300 apples" in shown(screen))


async def test_other_runs_are_overlaid_and_removed(home: Path) -> None:
    scripted_run(home, "other-1", 200, end="stopped")
    async with ended_run(home) as (pilot, screen):
        charts = {chart.id: chart for chart in screen.query(Chart)}
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseRuns))
        await pilot.press("space", "enter")
        await until(pilot, lambda: len(charts["loss-chart"].data.series) == 4)
        names = [one.name for one in charts["loss-chart"].data.series]
        assert names == ["train", "validation", "other-1", "other-1 validation"]
        assert [one.name for one in charts["norm-chart"].data.series] == ["norm", "other-1"]
        assert charts["norm-chart"].data.series[1].x[-1] == 200
        await until(pilot, lambda: "other-1" in shown(screen))
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseRuns))
        await until(pilot, lambda: "● other-1" in shown(pilot.app.screen))
        await pilot.press("space")
        await until(pilot, lambda: "● other-1" not in shown(pilot.app.screen))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert len(charts["loss-chart"].data.series) == 4
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseRuns))
        await pilot.press("k", "j", "space", "enter")
        await until(pilot, lambda: len(charts["loss-chart"].data.series) == 2)


async def test_more_runs_than_colors_are_not_accepted(home: Path) -> None:
    for number in range(5):
        scripted_run(home, f"other-{number}", 20, end="stopped")
    async with ended_run(home) as (pilot, screen):
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseRuns))
        await pilot.press("space", "j", "space", "j", "space", "j", "space", "j", "space")
        await until(pilot, lambda: "5 selected; at most 4 can be drawn" in shown(pilot.app.screen))
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert isinstance(pilot.app.screen, ChooseRuns)
        await pilot.press("space", "enter")
        await until(pilot, lambda: len(screen.view.others) == 4)


async def test_there_may_be_no_other_run_with_curves(home: Path) -> None:
    make_run(home, "new-1")
    async with ended_run(home) as (pilot, screen):
        await pilot.press("o")
        await until(pilot, lambda: "No other run has curves" in shown(screen))


async def test_steering_keys_reach_the_trainer_and_are_shown(home: Path) -> None:
    async with running_run(home) as (pilot, screen, trainer):
        for key, command in {"s": "save", "e": "evaluate", "a": "sample", "p": "pause"}.items():
            await until(pilot, lambda: f"{key} {command.capitalize()}" in shown(screen))  # noqa: B023
            await pilot.press(key)
            await until(pilot, lambda: trainer.obeyed[-1:] == [command])  # noqa: B023


async def test_the_other_steering_keys(home: Path) -> None:
    async with running_run(home) as (pilot, screen, trainer):
        await pilot.press("p")
        await until(pilot, lambda: screen.state == "paused")
        await pilot.press("p")
        await until(pilot, lambda: trainer.obeyed == ["pause", "resume"])
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsDialog))
        await pilot.press("escape", "x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert trainer.obeyed == ["pause", "resume"]
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, lambda: screen.state == "ended" and trainer.obeyed[-1] == "stop")
        assert not {"pause", "unpause", "command", "tune", "stop", "detach"} & {
            active.binding.action.partition("(")[0] for active in screen.active_bindings.values()
        }


async def test_a_refused_command_is_reported_though_the_log_cannot_hold_it(home: Path) -> None:
    """As on a full disk: the answer of the trainer reaches this program, but not the log that the screen reads."""
    async with running_run(home) as (pilot, screen, *_):
        training, reason = screen.workbench.training, "step 3 could not be saved; training continues"
        training.refusal = lambda request: reason if request == "1" else ""  # type: ignore[method-assign]
        screen.view.add_pending("1", "stop")
        screen.view.check_soon()
        await until(pilot, lambda: was_notified(pilot.app, reason))
        await until(pilot, lambda: "pending: stop" not in shown(screen))
        assert not screen.view.pending


@pytest.mark.parametrize("running", [True, False], ids=["running", "ended"])
async def test_chat_opens_the_live_model_or_the_last_checkpoint(running: bool, home: Path) -> None:
    opened: list[str] = []
    async with running_run(home) if running else ended_run(home) as (pilot, screen, *_):
        screen.workbench.open_chat = opened.append  # type: ignore[method-assign]
        await pilot.press("c")
        await until(pilot, lambda: opened == ["quick-1@live" if running else "old-1@last"])


async def test_resume_trains_the_run_on(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        await pilot.press("r")
        await until(pilot, lambda: screen.workbench.training.active == "old-1")
        screen.workbench.training.shutdown()


async def test_detach_hands_the_run_to_a_process(home: Path) -> None:
    async with running_run(home) as (pilot, screen, trainer):
        begun: list[str] = []
        app = screen.workbench
        app.training.begin_process = lambda run, overrides=(): begun.append(run.name) or 1  # type: ignore[method-assign,func-returns-value]
        await pilot.press("d")
        await until(pilot, lambda: begun == ["quick-1"])
        assert trainer.obeyed == ["stop"]


async def test_detaching_what_another_process_trains_says_so(home: Path) -> None:
    async with ended_run(home) as (pilot, screen):
        assert screen.curves is not None
        with screen.curves.run.lock():
            await until(pilot, lambda: screen.state == "running")
            await pilot.press("d")
            await until(pilot, lambda: "already trains in a background process" in shown(screen))


LIVE_SETTINGS = [
    ("train.lr_multiplier", "0.25", "-1"),
    ("train.clip", "0.5", "x"),
    ("train.log_every", "7", "-3"),
    ("evaluate.every", "40", "1.5"),
    ("checkpoint.every", "30", "-2"),
    ("evaluate.answers_every", "0", "-1"),
    ("checkpoint.keep", "5", "-1"),
    ("sample.every", "20", "-1"),
    ("sample.max_tokens", "33", "0"),
    ("sample.prompt", "Ada 你好", ""),
]
"""Each with a new value, and one that is refused."""


@pytest.mark.parametrize(("path", "value", "wrong"), LIVE_SETTINGS)
def test_every_live_setting_takes_a_value_and_refuses_a_wrong_one(path: str, value: str, wrong: str) -> None:
    _, config, new = set_live_field(RunConfig(), path, value)
    assert get_value(config, path) == new and str(new) == value
    if wrong:
        with pytest.raises(ConfigError, match="must be"):
            set_live_field(RunConfig(), path, wrong)


async def test_a_live_setting_is_checked_sent_and_logged(home: Path) -> None:
    async with running_run(home) as (pilot, screen, trainer):
        for path, value, wrong in LIVE_SETTINGS[::3]:
            await change_setting(pilot, path, value, wrong)
            change = ("set", {"key": path, "value": value})
            await until(pilot, lambda change=change: trainer.commands[-1:] == [change])  # type: ignore[misc]
            await until(pilot, lambda path=path: screen.curves and path in screen.curves.settings)  # type: ignore[misc]
            assert screen.curves is not None
            assert screen.curves.marks[-1].kind == "setting"
            await until(pilot, lambda: not screen.view.pending)
            log = screen.query_one("#event-log", RichLog)
            await until(pilot, lambda path=path, log=log: path in "".join(one.text for one in log.lines))  # type: ignore[misc]


async def change_setting(pilot: Pilot[int], path: str, value: str, wrong: str) -> None:
    """Enter a wrong value, if there is one, and then the value in the dialog of settings."""
    await pilot.press("t")
    await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsDialog))
    dialog = pilot.app.screen
    assert isinstance(dialog, LiveSettingsDialog)
    assert set(dialog.fields) == {path for path, _, _ in LIVE_SETTINGS}
    await pilot.press(*["j"] * list(dialog.fields).index(path), "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, AskText))
    line = pilot.app.screen.query_one(Input)
    if wrong:
        line.value = wrong
        await pilot.press("enter")
        await until(pilot, lambda: "must be" in shown(pilot.app.screen))
    line.value = value
    await pilot.press("enter")


def test_every_key_of_the_screen_is_pressed_above() -> None:
    """Fails where a key is added without a test (F: test_fine_tuning.py)."""
    pressed = {"F", "b", "p", "s", "e", "a", "t", "x", "r", "c", "d", "v", "u", "o", "escape"} | set(CHART_EFFECTS)
    bindings = TrainScreen.BINDINGS
    assert keys_of([binding for binding in bindings if isinstance(binding, Binding)]) == pressed


async def test_where_there_is_room_for_one_sample_enter_shows_the_other(home: Path) -> None:
    async with ended_run(home, size=(80, 24)) as (pilot, screen):
        await until(pilot, lambda: "300 apples" in shown(screen) and "200 apples" not in shown(screen))
        screen.query_one("#latest-sample").focus()
        await until(pilot, lambda: "Previous sample" in shown(screen).splitlines()[-1])
        await pilot.press("enter")
        await until(pilot, lambda: "200 apples" in shown(screen) and "300 apples" not in shown(screen))
        await until(pilot, lambda: screen.focused is screen.query_one("#earlier-sample"))
        await until(pilot, lambda: "Latest sample" in shown(screen).splitlines()[-1])
        await pilot.press("enter")
        await until(pilot, lambda: "300 apples" in shown(screen) and "200 apples" not in shown(screen))
        await until(pilot, lambda: screen.focused is screen.query_one("#latest-sample"))
        await pilot.press("enter")
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: "300 apples" in shown(screen) and "200 apples" in shown(screen))
        await until(pilot, lambda: "sample" not in shown(screen).splitlines()[-1])
