"""Choosing, editing and starting presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, OptionList

from llm.config import fields_of, load_preset, save_preset, with_overrides
from llm.config.schema import RunConfig
from llm.config.sizes import MachineSpeed
from llm.run import Run
from tests.conftest import tiny_config
from tests.workbench.scripted import ScriptedTrainer, scripted_run
from tests.workbench.waiting import notifications, shown, until, was_notified
from workbench.app import WorkbenchApp
from workbench.presets.edit_screen import EditScreen
from workbench.presets.estimate import estimate, fitting_overrides
from workbench.presets.fields import input_text, with_field
from workbench.presets.fit_dialog import FitDialog
from workbench.presets.preflight import Measurement, machine_name, measurements, work_key
from workbench.presets.screen import PresetsScreen
from workbench.presets.summary import preset_page
from workbench.train.service import TrainingService
from workbench.ui.dialogs import Ask, AskText


def app_with(home: Path, trainer: ScriptedTrainer | None = None) -> WorkbenchApp:
    return WorkbenchApp(home, training=TrainingService(home, trainer=trainer or ScriptedTrainer()))


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
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
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
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "by measured speed" in shown(app.screen))
        for size in ("small", "medium", "large"):
            await pilot.press("z")
            await until(pilot, lambda size=size: f"{size} (z selects another)" in shown(app.screen))  # type: ignore[misc]
        screen = await edit_screen(app, pilot)
        assert screen.config == screen.base == load_preset("quickstart", home, size="large")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))
        await pilot.press("enter")
        await until(pilot, lambda: (home / "runs" / "quickstart-1" / "run.toml").exists())
        assert Run.open(home, "quickstart-1").info()["size"] == "large"
        app.training.shutdown()


async def test_a_second_training_needs_confirmation(home: Path) -> None:
    begun: list[str] = []
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
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


async def edit_screen(app: WorkbenchApp, pilot: object) -> EditScreen:
    await until(pilot, lambda: app.focused is not None)  # type: ignore[arg-type]
    await pilot.press("e")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, EditScreen))  # type: ignore[arg-type]
    assert isinstance(app.screen, EditScreen)
    return app.screen


def select(screen: EditScreen, path: str) -> None:
    listing = screen.query_one("#edit-fields", OptionList)
    listing.highlighted = listing.get_option_index(path)


async def test_a_value_is_checked_while_it_is_typed(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await edit_screen(app, pilot)
        select(screen, "train.steps")
        await pilot.press("enter")
        line = screen.query_one("#edit-value", Input)
        await until(pilot, lambda: line.has_focus)
        line.value = "many"
        await until(pilot, lambda: "must be a whole number" in shown(screen))
        await pilot.press("enter")
        assert line.has_focus
        line.value = "77"
        await pilot.press("enter")
        await until(pilot, lambda: screen.config.train.steps == 77)
        await until(pilot, lambda: "2 changed" in shown(screen))
        assert screen.config.train.minutes == 0  # another length replaces it
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))
        await until(pilot, lambda: "Your changes" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: app.current_mode == "train")
        assert Run.open(home, "quickstart-1").config().train.steps == 77


async def test_space_selects_the_next_choice_and_d_resets_it(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await edit_screen(app, pilot)
        select(screen, "optim.kind")
        before = screen.config.optim.kind
        await pilot.press("space")
        await until(pilot, lambda: screen.config.optim.kind != before)
        await pilot.press("d")
        await until(pilot, lambda: screen.config.optim.kind == before)


async def test_contradictions_are_shown_and_prevent_training(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await edit_screen(app, pilot)
        select(screen, "model.n_head")
        await pilot.press("enter")
        screen.query_one("#edit-value", Input).value = "7"
        await pilot.press("enter")
        await until(pilot, lambda: "7 does not divide" in shown(screen))
        await pilot.press("ctrl+r")
        assert app.screen is screen
        assert app.training.active is None


async def test_the_filter_finds_fields_by_their_help(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await edit_screen(app, pilot)
        await pilot.press("slash", *"peak")
        await until(pilot, lambda: "train.lr" in [option.id for option in screen.listing.options])
        assert "train.steps" not in [option.id for option in screen.listing.options]
        await pilot.press("enter", "escape")
        await until(pilot, lambda: len(screen.listing.options) > len(fields_of(RunConfig)))


async def test_the_filter_lists_matching_names_before_matching_help(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await edit_screen(app, pilot)
        await pilot.press("slash", *"corpus", "enter")
        await until(pilot, lambda: screen.listing.has_focus)
        assert screen.field is not None and screen.field.path == "data.corpus"
        assert "tokenizer.train_mb" in [option.id for option in screen.listing.options]
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.listing.options) > len(fields_of(RunConfig)))
        assert screen.field is not None and screen.field.path == "data.corpus", "the field stays selected"


async def test_an_invalid_value_is_kept_and_prevents_training_and_saving(home: Path) -> None:
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await edit_screen(app, pilot)
        select(screen, "train.steps")
        await pilot.press("enter")
        await until(pilot, lambda: screen.value_line.has_focus)
        screen.value_line.value = "many"
        for keys in (("ctrl+r",), ("ctrl+s",), ("shift+tab", "ctrl+r")):
            await pilot.press(*keys)
            await until(pilot, lambda: "must be a whole number" in shown(screen))
            assert app.screen is screen and app.training.active is None
            assert screen.value_line.has_focus and screen.value_line.value == "many"
        screen.value_line.value = "78"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.current_mode == "train")
        assert Run.open(home, "quickstart-1").config().train.steps == 78


async def test_a_wide_form_shows_the_costs_of_training(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, EditScreen))
        side = app.screen.query_one("#edit-side")
        assert not side.display or not side.region
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: "Costs" in shown(app.screen) and "1.673M parameters" in shown(app.screen))
        await pilot.press("slash", *"n_layer", "enter")
        await until(pilot, lambda: app.screen.field is not None and app.screen.field.path == "model.n_layer")
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.value_line.has_focus)
        app.screen.value_line.value = "4"
        await pilot.press("enter")
        await until(pilot, lambda: "4 layers × 192" in shown(app.screen) and "2 → 4" in shown(app.screen))


async def test_edits_are_saved_as_a_preset_of_the_user(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await edit_screen(app, pilot)
        select(screen, "train.steps")
        await pilot.press("enter")
        screen.query_one("#edit-value", Input).value = "77"
        await pilot.press("enter", "ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        line = app.screen.query_one(Input)
        line.value = "../up"
        await until(pilot, lambda: "is not a valid name" in shown(app.screen))
        line.value = "quickstart"
        await pilot.press("enter")
        await until(pilot, lambda: "is the name of a shipped preset" in shown(app.screen))
        assert isinstance(app.screen, AskText) and line.has_focus
        line.value = "mine"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))
        await until(pilot, lambda: app.screen.current == "mine")  # type: ignore[attr-defined]
    assert load_preset("mine", home).train.steps == 77


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


async def test_a_preflight_is_shown_and_its_measurement_saved(home: Path, corpus: Path) -> None:
    save_preset(home, "aa-tiny", tiny_config(corpus))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "parameters" in shown(app.screen))
        listing = app.screen.query_one("#preset-list", OptionList)
        listing.highlighted = listing.get_option_index("aa-tiny")
        await until(pilot, lambda: "not measured yet" in shown(app.screen))
        await pilot.press("p")
        await until(pilot, lambda: "Preflight of aa-tiny" in shown(app.screen))
        assert "esc Cancel" in shown(app.screen)
        await until(pilot, lambda: "(measured)" in shown(app.screen))
        assert "Preflight of aa-tiny" not in shown(app.screen)
        listing.highlighted = listing.get_option_index("quickstart")
        await until(pilot, lambda: "not measured yet" in shown(app.screen))  # its steps are too short to predict others
    (found,) = measurements(home)
    assert (found.name, found.device, found.precision, found.threads) == ("aa-tiny", "cpu", "fp32", 1)
    assert abs(found.tokens_per_second * found.step_seconds - 4 * 32) < 1e-6
    assert found.peak_bytes > found.training_bytes > 0
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


async def test_a_preflight_can_be_canceled_and_the_keys_work_meanwhile(home: Path, corpus: Path) -> None:
    save_preset(home, "aa-tiny", tiny_config(corpus))
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        listing = screen.query_one("#preset-list", OptionList)
        listing.highlighted = listing.get_option_index("aa-tiny")
        await until(pilot, lambda: screen.current == "aa-tiny")
        await pilot.press("p")
        await until(pilot, lambda: "Preflight of aa-tiny" in shown(screen))
        await pilot.press("g")
        await until(pilot, lambda: screen.current != "aa-tiny")
        await pilot.press("escape")
        await until(pilot, lambda: screen.preflight.job is None)
        assert "Preflight" not in shown(screen).replace("p Preflight", "")
    assert measurements(home) == []


class LatePreflight:
    """Replaces PreflightJob; has its result at the moment it is canceled."""

    def __init__(self, config: RunConfig, name: str, home: Path, on_progress: Any, on_end: Any) -> None:
        self.config, self.name, self.on_end = config, name, on_end
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True
        key = work_key(self.config)
        self.on_end(Measurement(machine_name(), key, self.name, "cpu", "fp32", 1, 0.1, 9.0, 1e9, 10, 20), "")


@pytest.mark.parametrize("key", ["enter", "Q"])
async def test_a_training_cancels_the_preflight(home: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.presets.preflight_line.PreflightJob", LatePreflight)
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        await until(pilot, lambda: screen.current == "quickstart")
        await pilot.press("p")
        await until(pilot, lambda: screen.preflight.job is not None)
        await pilot.press(key)
        await until(pilot, lambda: app.training.active == "quickstart-1")
        await until(pilot, lambda: screen.preflight.job is None)
        ended = "Preflight of quickstart canceled, because quickstart-1 starts training."
        assert notifications(app).count(ended) == 1
        assert measurements(home) == []
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_no_preflight_while_another_process_trains(home: Path) -> None:
    other = scripted_run(home, "other-1", 3)
    trainer = ScriptedTrainer(steps=3)
    trainer.prepared.set()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        await until(pilot, lambda: screen.current == "quickstart")

        with other.lock():
            await pilot.press("p")
            await until(pilot, lambda: was_notified(app, "other-1 is training, which would distort"))
            assert screen.preflight.job is None
            await pilot.press("enter")
            await until(pilot, lambda: was_notified(app, "other-1 is also training, in another process"))
            assert app.training.active == "quickstart-1"
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


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


def test_every_field_accepts_its_own_text() -> None:
    from llm.config import get_value, parse_value

    for field in fields_of(RunConfig):
        value = get_value(RunConfig(), field.path)
        assert parse_value(field, input_text(value)) == value or field.path == "decode.dry_breakers"
        assert with_field(RunConfig(), field, value) == RunConfig()


async def test_a_missing_base_is_an_error(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(120, 44)) as pilot:
        await until(pilot, lambda: "by measured speed" in shown(app.screen))
        config = load_preset("quickstart-chat", home)
        edited = replace(config, tune=replace(config.tune, base="gone"))
        app.screen.edited["quickstart"] = edited  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, 'no preset named "gone"'))
