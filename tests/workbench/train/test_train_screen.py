"""Watching and steering a run."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input, RichLog

from llm.config import RunConfig
from llm.events import Sampled, Saved, to_line
from llm.run import Run
from tests.workbench.opening import app_with, open_train_screen
from tests.workbench.scripted import ScriptedTrainer, prepared_trainer, scripted_run, step_event, write_events
from tests.workbench.waiting import shown, until, was_notified
from workbench.charts.curves import RunCurves
from workbench.train.panels import Numbers
from workbench.ui.dialogs import Ask, AskText


async def test_a_finished_run_is_shown_whole(home: Path) -> None:
    scripted_run(home, "old-1", 330, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: "step 330 of 600" in shown(screen) and "r Resume" in shown(screen))
        page = shown(screen)
        for text in ("stopped", "55%", "validation 1.804", "who found 300 apples", "r Resume", "1.279M parameters"):
            assert text in page
        assert "p Pause" not in page


async def test_at_80_by_24_every_key_of_a_running_run_is_in_the_footer(home: Path) -> None:
    trainer = prepared_trainer(30)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        app.training.start(RunConfig(), "quick")
        screen = await open_train_screen(app, pilot, "quick-1")
        await until(pilot, lambda: "p Pause" in shown(screen))
        footer = shown(screen).splitlines()[-1]
        for key in ("s Save", "e Evaluate", "a Sample", "t Tune", "x Stop", "c Chat", "^q Quit", "? Help"):
            assert key in footer
        app.training.shutdown()


async def test_wide_terminals_show_all_charts_and_both_samples(home: Path) -> None:
    scripted_run(home, "old-1", 330, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: "300 apples" in shown(screen))
        page = shown(screen)
        for text in ("loss", "learning rate", "gradient norm", "tokens per second", "clip 1.000", "200 apples"):
            assert text in page


async def test_a_run_that_grows_is_followed(home: Path) -> None:
    run = scripted_run(home, "old-1", 50)
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        log = run.log()
        write_events(log, 51, 105)
        await until(pilot, lambda: "step 105 of 600" in shown(screen) and "100 apples" in shown(screen))
        log.close()


async def test_pause_resume_and_stop(home: Path) -> None:
    trainer = prepared_trainer(30)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        app.training.start(RunConfig(), "quick")
        screen = await open_train_screen(app, pilot, "quick-1")
        await until(pilot, lambda: screen.state == "running")
        await pilot.press("p")
        await until(pilot, lambda: screen.state == "paused" and "p Continue" in shown(screen))
        await pilot.press("p")
        await until(pilot, lambda: screen.state == "running")
        assert trainer.obeyed == ["pause", "resume"]
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, lambda: screen.state == "ended" and "r Resume" in shown(screen))
        assert trainer.obeyed[-1] == "stop"
        await pilot.press("r")
        await until(pilot, lambda: app.training.active == "quick-1")
        app.training.shutdown()


async def test_the_line_on_top_and_the_numbers_tell_the_same(home: Path) -> None:
    trainer = prepared_trainer(30)
    app = app_with(home, trainer)
    app.settings = replace(app.settings, redraws_per_second=20)
    async with app.run_test(size=(160, 40)) as pilot:
        app.training.start(RunConfig(), "quick")
        screen = await open_train_screen(app, pilot, "quick-1")
        await until(pilot, lambda: "quick-1 5%" in app.training_line)
        log = Run.open(home, "quick-1").log()
        for step in range(31, 61):
            log.append(replace(step_event(step), step_ms=50.0 + step))
            await until(pilot, lambda step=step: f"step {step} of 600" in str(screen.query_one(Numbers).render()))  # type: ignore[misc]
            numbers = str(screen.query_one(Numbers).render())
            _, left, loss = app.training_line.split(" · ")
            assert f"  {left}\n" in numbers and f"{loss} " in numbers
        log.close()
        await app.action_show("runs")
        await until(pilot, lambda: "quick-1 10%" in app.training_line)
        app.training.shutdown()


async def test_a_finished_run_can_be_extended(home: Path) -> None:
    scripted_run(home, "old-1", 40, end="finished")
    trainer = ScriptedTrainer(steps=50)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: screen.state == "ended")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        line = app.screen.query_one(Input)
        assert line.value == "80"
        line.value = "40"
        await until(pilot, lambda: "must be a whole number above 40" in shown(app.screen))
        for text, problem in (("9" * 5000, "must be a finite number"), ("9" * 400, "must be at most"), ("x", "not")):
            line.value = text
            await until(pilot, lambda problem=problem: problem in shown(app.screen))  # type: ignore[misc]
            await pilot.press("enter")
            assert isinstance(app.screen, AskText)
        line.value = "50"
        await pilot.press("enter")
        await until(pilot, lambda: app.training.active == "old-1")
        trainer.prepared.set()
        await until(pilot, lambda: trainer.overrides == (("train.steps", "50"),))
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_a_setting_is_pending_until_it_has_taken_effect(home: Path) -> None:
    trainer = prepared_trainer(30)
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        app.training.start(RunConfig(), "quick")
        screen = await open_train_screen(app, pilot, "quick-1")
        await until(pilot, lambda: screen.state == "running")
        await pilot.press("t", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        line = app.screen.query_one(Input)
        line.value = "-1"
        await until(pilot, lambda: "must be at least 0" in shown(app.screen))
        line.value = "0.5"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen)
        await until(pilot, lambda: not screen.view.pending and "train.lr_multiplier: 1.0" in shown(screen))
        assert screen.view.value_of("train.lr_multiplier") == 0.5
        assert screen.curves is not None
        assert screen.curves.marks[-1].kind == "setting"
        app.training.shutdown()


async def test_a_command_that_is_not_answered_yet_is_shown_as_asked(home: Path) -> None:
    run = scripted_run(home, "other-1", 50)
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        with run.lock():
            screen = await open_train_screen(app, pilot, "other-1")
            await until(pilot, lambda: screen.state == "running")
            tail = run.commands()
            await pilot.press("s")
            await until(pilot, lambda: "pending: save" in shown(screen))
            (command,) = tail.poll()
            log = run.log()
            log.append(Saved(step=50, path="checkpoints/step-00000050", size_bytes=9, command_id=command.id))
            log.close()
            await until(pilot, lambda: "pending:" not in shown(screen))


async def test_hostile_text_is_shown_and_not_obeyed(home: Path) -> None:
    run = scripted_run(home, "old-1", 3)
    log = run.log()
    log.append(Sampled(step=3, prompt="[red]", text="\x1b]52;c;eA==\x07[/bold] \x9b2J[@click=app.quit]x[/]"))
    log.close()
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: "␛]52;c;eA==␇[/bold]" in shown(screen))
        assert "[red]" in shown(screen)
        assert not any(
            ord(character) < 32 or 127 <= ord(character) < 160 for character in shown(screen) if character != "\n"
        )


async def test_a_run_directory_that_vanishes_is_reported(home: Path) -> None:
    run = scripted_run(home, "old-1", 60)
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        await until(pilot, lambda: screen.state == "ended")
        shutil.rmtree(run.path)
        await until(pilot, lambda: "deleted or moved" in shown(screen) and "Resume" not in shown(screen))
        await pilot.press("r", "c", "y", "plus", "o")
        await pilot.pause(0.2)
        assert app.screen is screen
        scripted_run(home, "old-1", 20, end="stopped")
        app.open_train("old-1")
        await until(pilot, lambda: "step 20 of 600" in shown(screen) and "r Resume" in shown(screen))


async def test_a_torn_last_line_is_not_there_yet(home: Path) -> None:
    run = scripted_run(home, "old-1", 60)
    line = to_line(step_event(61))
    with (run.path / "events.jsonl").open("ab", buffering=0) as log:
        log.write(line[:70])
        app = app_with(home)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await open_train_screen(app, pilot, "old-1")
            await until(pilot, lambda: "step 60 of 600" in shown(screen))
            await pilot.pause(0.3)
            assert "step 60 of 600" in shown(screen)
            log.write(line[70:])
            await until(pilot, lambda: "step 61 of 600" in shown(screen))


async def test_the_log_tells_what_happened_and_not_every_step(home: Path) -> None:
    scripted_run(home, "old-1", 250, end="finished")
    app = app_with(home)
    async with app.run_test(size=(240, 50)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        log = screen.query_one("#event-log", RichLog)
        await until(pilot, lambda: len(log.lines) >= 8)
        text = "\n".join(line.text for line in log.lines)
        assert "validation loss" in text
        assert "best so far" in text
        assert "finished" in text
        assert sum(line.text.strip()[:1].isdigit() for line in log.lines) == 8


async def test_a_long_log_is_read_in_the_background(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.train.run_view.LONG_LOG_BYTES", 1)
    monkeypatch.setattr("workbench.charts.curve_cache.WORTH_BYTES", 1)
    run = scripted_run(home, "old-1", 330, end="stopped")
    cache = run.path / ".cache" / "curves.npz"
    for _ in range(2):
        app = app_with(home)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await open_train_screen(app, pilot, "old-1")
            await until(
                pilot, lambda screen=screen: "step 330 of 600" in shown(screen) and "300 apples" in shown(screen)
            )
            assert "stopped" in "\n".join(line.text for line in screen.query_one("#event-log", RichLog).lines)
            await until(pilot, cache.exists)


async def test_the_time_left_is_shown_while_a_long_log_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.train.run_view.LONG_LOG_BYTES", 1)
    scripted_run(home, "old-1", 330, end="stopped")
    catch_up, go_on = RunCurves.catch_up, threading.Event()

    def slowly(curves: RunCurves, progress: Callable[[float], bool]) -> None:
        time.sleep(0.01)
        progress(0.25)
        go_on.wait(30)
        catch_up(curves, progress)

    monkeypatch.setattr(RunCurves, "catch_up", slowly)
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.action_show("train")
        await until(pilot, lambda: re.search(r"reading the log 25%  [\d.]+s left", shown(app.screen)))
        go_on.set()
        await until(pilot, lambda: "step 330 of 600" in shown(app.screen))


async def test_the_log_is_wrapped_for_the_width_it_has(home: Path) -> None:
    scripted_run(home, "old-1", 250, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_train_screen(app, pilot, "old-1")
        log = screen.query_one("#event-log", RichLog)
        await until(pilot, lambda: len(log.lines) > 10)
        await pilot.resize_terminal(240, 60)
        await until(pilot, lambda: len(log.lines) < 10)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: len(log.lines) > 10)


async def test_a_run_whose_log_cannot_be_read_is_reported(home: Path) -> None:
    scripted_run(home, "good-1", 30, end="stopped")
    bad = scripted_run(home, "bad-1", 0)
    (bad.path / "events.jsonl").unlink()
    (bad.path / "events.jsonl").mkdir()
    (bad.path / "events.jsonl" / "x").touch()
    app = app_with(home)
    async with app.run_test(size=(120, 30)) as pilot:
        await open_train_screen(app, pilot, "good-1")
        app.open_train("bad-1")
        await until(pilot, lambda: was_notified(app, "events.jsonl is a folder"))
        await pilot.press("o")
        await until(pilot, lambda: was_notified(app, "No other run has curves"))
