"""Choosing and starting presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input

from llm.config import load_preset, with_overrides
from llm.config.schema import RunConfig
from llm.config.sizes import MachineSpeed
from llm.run import Run
from tests.workbench.opening import app_with, open_form
from tests.workbench.scripted import ScriptedTrainer, prepared_trainer
from tests.workbench.waiting import shown, until, was_notified
from workbench.presets.estimate import estimate, fitting_overrides
from workbench.presets.fit_dialog import FitDialog
from workbench.presets.prepared import find_data_state
from workbench.presets.screen import PresetsScreen
from workbench.presets.summary import preset_page
from workbench.ui.dialogs import Ask


async def test_the_first_preset_is_selected_and_described(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "optim.kind" in shown(app.screen))
        page = shown(app.screen)
        config = load_preset("quickstart", home)
        assert "quickstart" in page
        assert f"{config.train.minutes:g} minutes" in page
        assert "2,048 tokens (8 × 256)" in page
        assert "optim.kind" in page


async def test_the_page_says_to_which_formats_a_model_can_be_exported(home: Path) -> None:
    config = load_preset("quickstart", home)
    state = find_data_state(config, home)
    page = preset_page("quickstart", config, config, state, 100).plain
    assert "Export to  safetensors; with model.embedding_conv 0 also hf and gguf" in page
    app = app_with(home)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "Export to  safetensors; with" in shown(app.screen))


async def test_notes_are_below_the_costs_or_next_to_them(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "About it" in shown(app.screen))
        meaning, notes = app.screen.query_one("#preset-meaning"), app.screen.query_one("#preset-notes")
        assert notes.region.y >= meaning.region.bottom
        await pilot.resize_terminal(180, 50)
        await until(pilot, lambda: notes.region.x >= meaning.region.right)
        assert "It follows no document" in shown(app.screen)


async def test_enter_trains_the_selected_preset_at_once(home: Path) -> None:
    trainer = ScriptedTrainer(steps=3)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("enter")
        await until(pilot, lambda: app.current_mode == "train")
        await until(pilot, lambda: "Tokenizing" in shown(app.screen))
        assert app.training.active == "quickstart-1"
        assert Run.open(home, "quickstart-1").config() == load_preset("quickstart", home)
        trainer.prepared.set()
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_a_slow_machine_trains_the_small_size(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting measures the machine first, once."""
    measured: list[RunConfig] = []

    def measure(config: RunConfig) -> MachineSpeed:
        measured.append(config)
        return MachineSpeed(1e9, 2e10)

    monkeypatch.setattr("workbench.presets.screen.measure_with_torch", measure)
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "by measured speed" in shown(app.screen))
        await until(pilot, lambda: "will be generated" in shown(app.screen))  # no later message draws the page again
        await pilot.press("Q")
        await until(pilot, lambda: (home / "runs" / "quickstart-1" / "run.toml").exists())
        small, run = load_preset("quickstart", home, size="small"), Run.open(home, "quickstart-1")
        assert run.config() == small != load_preset("quickstart", home)
        assert run.info()["size"] == "small"
        assert measured == [load_preset("quickstart", home)]
        assert was_notified(app, "This machine trains at about 20 GFLOP/s: size small.")
        await pilot.press("1")
        await until(pilot, lambda: "small, by speed: 20 GFLOP/s" in shown(app.screen))
        await pilot.press("Q")
        await until(pilot, lambda: "quickstart-2" in app.queue.names())
        assert Run.open(home, "quickstart-2").config() == small and len(measured) == 1
        app.training.shutdown()


async def test_z_selects_a_size(home: Path) -> None:
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "by measured speed" in shown(app.screen))
        for size in ("small", "medium", "large"):
            await pilot.press("z")
            await until(pilot, lambda size=size: f"{size} (z selects another)" in shown(app.screen))  # type: ignore[misc]
        screen = await open_form(app, pilot)
        assert screen.config == screen.base == load_preset("quickstart", home, size="large")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))
        await pilot.press("enter")
        await until(pilot, lambda: (home / "runs" / "quickstart-1" / "run.toml").exists())
        assert Run.open(home, "quickstart-1").info()["size"] == "large"
        app.training.shutdown()


async def test_a_second_training_needs_confirmation(home: Path) -> None:
    begun: list[str] = []
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    app.training.begin_process = lambda run, overrides=(): begun.append(run.name) or 1  # type: ignore[method-assign,func-returns-value]
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("enter")
        await until(pilot, lambda: app.current_mode == "train")
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "presets")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.id == "presets")
        assert begun == []
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: begun == ["quickstart-2"])
        app.training.shutdown()


async def test_a_broken_preset_is_listed_with_its_problem(home: Path) -> None:
    (home / "presets").mkdir()
    (home / "presets" / "odd.toml").write_text('purpose = "[b]\\u001b[31m"\n[train]\nstepz = 3\n', encoding="utf-8")
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "Cannot be read" in shown(app.screen))
        await pilot.press("G")
        await until(pilot, lambda: "train.stepz: there is no such field" in shown(app.screen))
        await pilot.press("enter", "e")
        assert app.training.active is None


def test_estimates_follow_from_the_configuration(home: Path) -> None:
    guess = estimate(load_preset("quickstart", home, [("train.steps", "1600")]), train_tokens=1_000_000)
    # embedding 2048·192; a block: q, k, v, o 4·192² and SwiGLU 3·192·512; a gain for each of 2·2+1 normalisations, and
    # a weight for each of the 4 tokens before
    assert guess.parameters == 2 * 2048 * 192 + 2 * (4 * 192 * 192 + 3 * 192 * 512) + (5 + 4) * 192
    assert guess.total_tokens == 1600 * 8 * 256
    in_time = estimate(load_preset("quickstart", home), flops_per_second=1e10)
    seconds = in_time.total_tokens * in_time.batch_plan.flops_per_token / 1e10
    assert 100 < seconds < 120 and in_time.length_is_guess  # two minutes, some of them for evaluations
    assert guess.training_bytes > 12 * guess.parameters  # weights, gradients, Muon's momentum, and more


async def test_fit_shows_the_changes_before_it_applies_them(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "parameters" in shown(app.screen))
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, FitDialog))
        line = app.screen.query_one("#fit-minutes", Input)
        line.value = "soon"
        await until(pilot, lambda: "must be a number of minutes" in shown(app.screen))
        await pilot.press("enter")
        assert isinstance(app.screen, FitDialog)
        line.value = "0.05"
        await until(pilot, lambda: "train.steps" in shown(app.screen))
        assert screen.edited == {}
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen and "quickstart" in screen.edited)
        assert 0 < screen.edited["quickstart"].train.steps < 1600
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, FitDialog))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)


def test_the_page_names_the_nearest_model_that_fits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_preset("quickstart", home)
    monkeypatch.setattr("workbench.presets.estimate.available_bytes", lambda: 40_000_000)
    page = preset_page("quickstart", config, config, None, 80).plain
    assert "does not fit: 40 MB free. Nearest that fits: " in page.replace("\n" + " " * 11, " ")
    fitted = with_overrides(config, fitting_overrides(config, 1e9))
    assert estimate(fitted).fits
    assert not estimate(config).fits
    monkeypatch.setattr("workbench.presets.estimate.available_bytes", lambda: 40_000_000_000)
    assert "does not fit" not in preset_page("quickstart", config, config, None, 80).plain


async def test_a_missing_base_is_an_error(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "by measured speed" in shown(app.screen))
        config = load_preset("quickstart-chat", home)
        edited = replace(config, tune=replace(config.tune, base="gone"))
        app.screen.edited["quickstart"] = edited  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, 'no preset named "gone"'))
