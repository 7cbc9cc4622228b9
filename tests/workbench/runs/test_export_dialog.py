"""Exporting and importing models from the Runs screen."""

from __future__ import annotations

from pathlib import Path

from textual.widgets import Input, OptionList

from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.source import open_source
from llm.run import Run, find_checkpoint
from tests.draining import result_of
from tests.workbench.runs.screen_for_tests import RunsApp, opened
from tests.workbench.waiting import shown, until, was_notified
from workbench.runs.export_dialog import ExportDialog
from workbench.ui.dialogs import AskText


async def test_export_and_import(trained_home: Path) -> None:
    """The form says which formats fit and why not; what it writes can be imported again."""
    app = RunsApp(trained_home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        name = screen.runs_table.current
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, ExportDialog))
        dialog = app.screen
        formats = dialog.query_one("#export-formats", OptionList)
        await until(pilot, lambda: formats.option_count == 5 and "✓ hf" in shown(dialog))
        assert "✗ llama2c" in shown(dialog) and "✗ nanogpt" in shown(dialog)
        await pilot.press("j", "j")
        await until(pilot, lambda: "the tokenizer is byte" in shown(dialog).replace("\n", " "))
        await pilot.press("enter")
        assert app.screen is dialog, "a format that does not fit is not written"
        await pilot.press("g")
        folder = dialog.query_one("#export-folder", Input)
        expected = trained_home / "exports" / f"{name}-20-hf-f32"
        await until(pilot, lambda: folder.value == str(expected))
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "Exported to"))
        assert (expected / "model.safetensors").is_file()

        await pilot.press("I")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = str(expected)
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "Imported"))
        await until(pilot, lambda: len(screen.runs_table.summaries) == 2)
        assert Run.open(trained_home, expected.name).status().name == "imported"
        imported = screen.runs_table.summaries[0]
        assert (imported.name, imported.corpus, imported.total_steps) == (expected.name, "", 0)


async def test_a_model_without_a_tokenizer_is_imported_with_another(trained_home: Path, tmp_path: Path) -> None:
    (run,) = (trained_home / "runs").iterdir()
    source = open_source(*find_checkpoint(trained_home, run.name))
    result_of(export(source, FORMATS["hf"], "f32", tmp_path / "theirs"))
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    app = RunsApp(trained_home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        await pilot.press("I")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = f"'{tmp_path / 'theirs'}' "
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, AskText) and "Its tokenizer" in shown(app.screen))
        assert was_notified(app, "holds no tokenizer")
        app.screen.query_one(Input).value = str(run / "tokenizer")
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "Imported theirs"))
        await until(pilot, lambda: app.screen is screen)


async def test_an_error_of_an_import_is_shown_and_leaves_nothing(trained_home: Path, tmp_path: Path) -> None:
    app = RunsApp(trained_home)
    (tmp_path / "empty").mkdir()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        await pilot.press("I")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = str(tmp_path / "empty")
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "is not a model that can be imported"))
        await until(pilot, lambda: app.screen is screen)
        assert len(list((trained_home / "runs").iterdir())) == 1
