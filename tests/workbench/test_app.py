"""The app: opening, going places, help, leaving."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from textual.color import Color
from textual.events import Resize
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import OptionList

import workbench.shutdown
from llm.config import load_preset
from llm.run import EventLog, Run
from llm.training.commands import CommandQueue
from tests.workbench.opening import app_with
from tests.workbench.scripted import ScriptedTrainer, prepared_trainer, scripted_run
from tests.workbench.waiting import shown, until, was_notified
from workbench.app import WorkbenchApp
from workbench.charts.export import strips_of
from workbench.ui.dialogs import Help, QuitDialog
from workbench.ui.messages import TrainingEnded
from workbench.ui.themes import THEMES


def test_opening_needs_no_torch() -> None:
    check = "import sys, workbench.app, workbench.presets.screen; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_first_screen_shows_presets_before_torch(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        assert app.current_mode == "presets"


async def test_a_picture_of_a_window_shows_what_lies_behind_it(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await pilot.pause(0.3)
        app.screen.refresh()
        app.action_save_picture()
        await until(pilot, lambda: list((home / "exports").glob("[!.]*.svg")))
        (picture,) = (home / "exports").glob("[!.]*.svg")
        assert "quickstart" in picture.read_text(encoding="utf-8")
        assert "quickstart" in shown(app.screen)


async def test_number_keys_go_to_the_screens(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for key, mode in (("2", "train"), ("3", "runs"), ("5", "data"), ("1", "presets")):
            await pilot.press(key)
            await until(pilot, lambda mode=mode: app.current_mode == mode)


async def test_help_lists_the_keys_that_work_here(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 40)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await until(pilot, lambda: "Discard edits" in shown(app.screen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.id == "presets")


async def test_quitting_without_a_training_asks_nothing(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 0


async def train_first_preset(app: WorkbenchApp, pilot: Pilot[int]) -> None:
    await until(pilot, lambda: app.focused is not None)
    await pilot.press("enter")
    await until(pilot, lambda: app.training.has_work_to_save)


async def test_quitting_with_a_training_asks_once_and_saves(home: Path) -> None:
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        await train_first_preset(app, pilot)
        await pilot.press("ctrl+q", "ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        assert sum(isinstance(screen, QuitDialog) for screen in app.screen_stack) == 1
        assert "queue" not in shown(app.screen)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.id == "train")
        assert app.training.active == "quickstart-1"
        app.queue.add(Run.create(home, "later-1", load_preset("quickstart", home)))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        await until(pilot, lambda: "1 run stays in the queue" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: not app.is_running)
    assert trainer.obeyed == ["stop"]
    assert app.return_code == 0


async def test_quitting_again_ends_a_training_that_takes_long_to_stop(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench.shutdown, "SECONDS_TO_ABANDON", 0.0)
    micro_batch = threading.Event()

    class SlowTrainer(ScriptedTrainer):
        def obey(self, commands: CommandQueue, log: EventLog) -> None:
            micro_batch.wait(30)
            super().obey(commands, log)

    trainer = SlowTrainer(steps=5)
    trainer.prepared.set()
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        await train_first_preset(app, pilot)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        await pilot.press("enter")
        await until(pilot, lambda: "Press ^q to quit now" in shown(app.screen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    assert not app.training.shutdown() and not app.training.has_work_to_save
    micro_batch.set()


async def test_the_queue_waits_for_a_training_in_another_process(home: Path) -> None:
    trainer = prepared_trainer(5)
    other = scripted_run(home, "other-1", 5)
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        with other.lock():
            await pilot.press("Q")
            await until(
                pilot,
                lambda: was_notified(
                    app, "quickstart-1 is number 1 in the queue, after other-1, which trains in another process"
                ),
            )
            assert app.queue.names() == ["quickstart-1"] and app.training.active is None
            await app.action_show("runs")
            await pilot.press("w")
            await until(
                pilot,
                lambda: "The next run starts when other-1 ends, which trains in another process." in shown(app.screen),
            )
            await pilot.press("escape")
            app.post_message(TrainingEnded("another-1"))  # looks after the queue at once
            await pilot.pause()
            assert app.queue.names() == ["quickstart-1"] and app.training.active is None
        await until(pilot, lambda: app.training.active == "quickstart-1")
        assert app.queue.names() == []
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_the_queue_waits_for_any_training_that_is_active(home: Path) -> None:
    trainer = prepared_trainer(5)
    other = scripted_run(home, "other-1", 5)
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("Q")
        await until(pilot, lambda: app.training.has_work_to_save)
        app.queue.add(Run.create(home, "later-1", load_preset("quickstart", home)))
        with other.lock():
            app.post_message(TrainingEnded("another-1"))  # looks after the queue at once
            await pilot.pause()
            app.training.shutdown()
            await until(pilot, lambda: app.waits_for_other == "other-1")
            assert app.queue.names() == ["later-1"] and app.training.active is None
        await until(pilot, lambda: app.training.active == "later-1")
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_what_ends_while_the_app_closes_is_no_trouble(home: Path) -> None:
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        app.training.start(load_preset("quickstart", home), "late")
        await until(pilot, lambda: app.training_line)
    app.training.shutdown()
    assert not app.screen_stack
    app.on_training_ended(TrainingEnded("late-1"))


async def test_a_terminal_that_lost_its_content_is_painted_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that became small and large again between two looks has the old size, and is empty."""
    painted: list[int] = []
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        await pilot.pause(0.5)
        refresh = app.refresh

        def paint(*regions: Region, **options: bool) -> WorkbenchApp:
            painted.append(len(regions))
            refresh(*regions, **options)
            return app

        monkeypatch.setattr(app, "refresh", paint)
        app.post_message(Resize(app.size, app.size))
        await until(pilot, lambda: 0 in painted)  # no regions: all of it


async def test_a_long_message_leaves_the_screen_to_be_read(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.focused is not None)
        app.notify("a corpus that has no text cannot be learnt from; " * 3, severity="error", markup=False)
        await until(pilot, lambda: app.screen.query("Toast"))
        toast = app.screen.query_one("Toast")
        await until(pilot, lambda: toast.region.y >= 20 and toast.region.bottom <= 23)


async def test_leaving_it_in_a_process_stops_the_thread_first(home: Path) -> None:
    begun: list[str] = []
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    app.training.begin_process = lambda run, overrides=(): begun.append(f"{run.name} {run.holder()}") or 1  # type: ignore[method-assign,func-returns-value]
    async with app.run_test(size=(80, 24)) as pilot:
        await train_first_preset(app, pilot)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        app.screen.query_one(OptionList).highlighted = 1
        await pilot.press("enter")
        await until(pilot, lambda: not app.is_running)
    assert begun == ["quickstart-1 None"]


async def test_a_failed_training_is_reported_as_plain_text(home: Path) -> None:
    trainer = ScriptedTrainer()
    trainer.problem = "the corpus [bold]x[/] is \x1b[31mempty; give more text."
    app = app_with(home, trainer)
    async with app.run_test(size=(140, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("enter")
        await until(pilot, lambda: "corpus [bold]x[/] is ␛[31mempty" in shown(app.screen))


async def test_every_theme(home: Path) -> None:
    scripted_run(home, "old-1", 120, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "old-1" in shown(app.screen))
        for theme in THEMES:
            app.theme = theme.name
            await until(pilot, lambda: "step 120 of 600" in shown(app.screen))


async def test_no_color_is_respected(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        black = Color.parse("black")
        for strip in strips_of(app.screen):
            for line_filter in app.get_line_filters():
                strip = strip.apply_filter(line_filter, black)
            styles = [segment.style for segment in strip if segment.style is not None]
            triplets = [style.color.triplet for style in styles if style.color is not None]
            assert all(triplet is None or len(set(triplet)) == 1 for triplet in triplets), "only greys"


async def test_tiny_and_changing_terminals(home: Path) -> None:
    scripted_run(home, "old-1", 120, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(1, 1)) as pilot:
        for mode in ("presets", "train"):
            await app.action_show(mode)
            for size in ((1, 1), (200, 60), (3, 2), (79, 5), (20, 80), (80, 24)):
                await pilot.resize_terminal(*size)
                await pilot.pause()
        await until(pilot, lambda: "old-1" in shown(app.screen))


def test_without_a_terminal_there_is_a_sentence_and_status_2(home: Path) -> None:
    script = f"import pathlib, sys, workbench.app; sys.exit(workbench.app.run_app(pathlib.Path({str(home)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "needs a terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_first_screen_waits_for_nothing_it_does_not_show() -> None:
    """What these bring costs more than all the rest of the start; they are loaded once the screen is painted."""
    code = (
        "import sys, workbench.cli, workbench.app, workbench.presets.screen\n"
        "late = ('torch', 'numpy', 'plotext', 'tiktoken', 'psutil', 'email.message', 'pygments', 'markdown_it',\n"
        "        'workbench.presets.edit_screen', 'workbench.data.corpora', 'workbench.train.screen')\n"
        "print(*(name for name in late if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
