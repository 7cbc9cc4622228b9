"""What every screen looks like, in its main states: compared with pictures kept beside this file.

After a wanted change: `pytest tests/workbench/test_pictures.py --snapshot-update`, and look at what has changed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from llm.config import RunConfig
from llm.data.tokens.prepare import prepare
from tests.workbench.opening import app_with
from tests.workbench.pictures_for_tests import HUGE, SMALL, Look, going, old_runs, settle
from tests.workbench.scripted import prepared_trainer
from tests.workbench.waiting import shown, until
from workbench.data.corpora import add_corpus
from workbench.data.screen import DataScreen
from workbench.train.screen import TrainScreen

SIZES = pytest.mark.parametrize("size", [SMALL, HUGE], ids=["80x24", "200x60"])


@pytest.mark.parametrize("mode", ["train", "runs", "chat"])
def test_nothing_there_yet(mode: str, still_home: Path, look: Look) -> None:
    words = {"train": "No run yet", "runs": "No runs yet", "chat": "No model yet"}[mode]
    look(app_with(still_home), SMALL, going(mode, "no training"), words, picture=mode == "runs")


@SIZES
def test_presets(size: tuple[int, int], still_home: Path, look: Look) -> None:
    look(app_with(still_home), size, going("presets", "quickstart", "parameters"))


def test_a_preset_that_cannot_be_read(still_home: Path, look: Look) -> None:
    (still_home / "presets").mkdir()
    (still_home / "presets" / "odd.toml").write_text("[train]\nstepz = 3\n", encoding="utf-8")

    async def last(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: "quickstart" in shown(pilot.app.screen))
        await pilot.press("G")
        await until(pilot, lambda: "there is no such field" in shown(pilot.app.screen))
        await settle(pilot)

    look(app_with(still_home), SMALL, last, "odd", "stepz", picture=False)


@SIZES
def test_a_run_in_training(size: tuple[int, int], still_home: Path, look: Look) -> None:
    trainer = prepared_trainer(250)
    app = app_with(still_home, trainer)

    async def train(pilot: Pilot[int]) -> None:
        app.training.start(RunConfig(), "quick")
        app.open_train("quick-1")
        screen: Any = None
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        screen = app.screen
        wide = size != SMALL
        await until(pilot, lambda: screen.state == "running" and "step 250" in shown(screen))
        await until(pilot, lambda: not wide or "CPU 42%" in shown(screen))
        await until(pilot, lambda: app.training_line.startswith("quick-1 42%"))
        await settle(pilot)

    look(app, size, train)
    app.training.shutdown()


def test_a_run_that_failed(still_home: Path, look: Look) -> None:
    old_runs(still_home)
    app = app_with(still_home)

    async def train(pilot: Pilot[int]) -> None:
        app.open_train("third-1")
        await until(pilot, lambda: "third-1  failed" in shown(app.screen))
        await until(pilot, lambda: "r Resume" in shown(app.screen))
        await settle(pilot)

    look(app, SMALL, train, "failed: the loss was", "step 20 of 600", "loss (nats", picture=False)


@SIZES
def test_runs(size: tuple[int, int], still_home: Path, look: Look) -> None:
    old_runs(still_home)
    step = going("runs", "first-1", "second-1", "third-1")
    look(app_with(still_home), size, step)


@SIZES
def test_data(size: tuple[int, int], still_home: Path, look: Look) -> None:
    text = Path("mine.txt")
    text.write_text("".join(f"Ada saw the moon on day {day}, 日本 too.\n" for day in range(400)), encoding="utf-8")
    config = RunConfig()
    config = replace(
        config, tokenizer=replace(config.tokenizer, kind="byte"), data=replace(config.data, corpus="mine.txt")
    )
    for _ in prepare(config, still_home):
        pass
    app = app_with(still_home)

    async def visit(pilot: Pilot[int]) -> None:
        await app.action_show("data")
        screen: Any = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: any(key.startswith("prepared") for key in screen.entries))
        key = next(key for key in screen.entries if key.startswith("prepared"))
        screen.listing.highlighted = screen.listing.get_option_index(key)
        await until(pilot, lambda: "Most frequent" in shown(screen))
        screen.query_one("#try-text", TextArea).text = "Ada says 你好"
        await until(pilot, lambda: "Ada·says" in shown(screen))
        await settle(pilot)

    look(app, size, visit)


def test_data_that_is_gone(still_home: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.txt").write_text("some text\n", encoding="utf-8")
    monkeypatch.setattr(Path, "absolute", lambda path: path)  # the list keeps whole paths, which differ here each time
    add_corpus(still_home, "mine.txt")
    Path("mine.txt").unlink()
    app = app_with(still_home)

    async def visit(pilot: Pilot[int]) -> None:
        await app.action_show("data")
        screen: Any = app.screen
        await until(pilot, lambda: "added mine.txt" in screen.entries)
        screen.listing.highlighted = screen.listing.get_option_index("added mine.txt")
        await until(pilot, lambda: "There is no corpus" in shown(screen))
        await settle(pilot)

    look(app, SMALL, visit, "mine.txt", "There is no corpus", picture=False)
