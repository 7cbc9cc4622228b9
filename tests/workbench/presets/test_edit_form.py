"""The form of a preset: typing, choosing, filtering and saving its fields."""

from __future__ import annotations

from pathlib import Path

from textual.widgets import Input

from llm.config import fields_of, load_preset
from llm.config.schema import RunConfig
from llm.run import Run
from tests.workbench.opening import app_with, open_form, select_field
from tests.workbench.scripted import prepared_trainer
from tests.workbench.waiting import shown, until
from workbench.presets.edit_screen import EditScreen
from workbench.presets.fields import input_text, with_field
from workbench.presets.screen import PresetsScreen
from workbench.ui.dialogs import AskText


async def test_a_value_is_checked_while_it_is_typed(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await open_form(app, pilot)
        select_field(screen, "train.steps")
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
        screen = await open_form(app, pilot)
        select_field(screen, "optim.kind")
        before = screen.config.optim.kind
        await pilot.press("space")
        await until(pilot, lambda: screen.config.optim.kind != before)
        await pilot.press("d")
        await until(pilot, lambda: screen.config.optim.kind == before)


async def test_contradictions_are_shown_and_prevent_training(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await open_form(app, pilot)
        select_field(screen, "model.n_head")
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
        screen = await open_form(app, pilot)
        await pilot.press("slash", *"peak")
        await until(pilot, lambda: "train.lr" in [option.id for option in screen.listing.options])
        assert "train.steps" not in [option.id for option in screen.listing.options]
        await pilot.press("enter", "escape")
        await until(pilot, lambda: len(screen.listing.options) > len(fields_of(RunConfig)))


async def test_the_filter_lists_matching_names_before_matching_help(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        await pilot.press("slash", *"corpus", "enter")
        await until(pilot, lambda: screen.listing.has_focus)
        assert screen.field is not None and screen.field.path == "data.corpus"
        assert "tokenizer.train_mb" in [option.id for option in screen.listing.options]
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.listing.options) > len(fields_of(RunConfig)))
        assert screen.field is not None and screen.field.path == "data.corpus", "the field stays selected"


async def test_an_invalid_value_is_kept_and_prevents_training_and_saving(home: Path) -> None:
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        select_field(screen, "train.steps")
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
        screen = await open_form(app, pilot)
        select_field(screen, "train.steps")
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


def test_every_field_accepts_its_own_text() -> None:
    from llm.config import get_value, parse_value

    for field in fields_of(RunConfig):
        value = get_value(RunConfig(), field.path)
        assert parse_value(field, input_text(value)) == value or field.path == "decode.dry_breakers"
        assert with_field(RunConfig(), field, value) == RunConfig()
