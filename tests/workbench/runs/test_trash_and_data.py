"""The trash and the prepared data, opened from the Runs screen."""

from __future__ import annotations

import pkgutil
import threading

from llm.files import write_json
from tests.workbench.runs.screen_for_tests import RunsApp, home_with_runs, names, opened, select_run
from tests.workbench.runs_for_tests import make_run, save_fake
from tests.workbench.waiting import shown, until
from workbench.data.prepared_screen import PreparedDataScreen
from workbench.runs.trash import move_to_trash
from workbench.runs.trash_screen import TrashScreen
from workbench.ui.dialogs import Ask


async def test_the_trash(tmp_path):
    run = home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        await select_run(pilot, screen, "alpha-1")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: names(screen) == ["beta-1"])
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, TrashScreen))
        bin_ = pilot.app.screen
        await until(pilot, lambda: "In the trash: 1 run, " in shown(bin_))
        await pilot.press("r")
        await until(pilot, lambda: "empty" in shown(bin_))
        assert len(run.checkpoints()) == 2
        await pilot.press("escape")
        await until(pilot, lambda: len(names(screen)) == 2)
        await select_run(pilot, screen, "alpha-1")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: names(screen) == ["beta-1"])
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, TrashScreen))
        for key, answer in (("d", ("enter",)), ("E", ("down", "enter"))):
            await until(pilot, lambda: "In the trash: 1 run, " in shown(pilot.app.screen))
            await pilot.press(key)
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            assert "cannot be undone" in pilot.app.screen.question
            await pilot.press(*answer)
        await until(pilot, lambda: not list((tmp_path / "trash").iterdir()))


async def test_prepared_data_that_no_run_uses(tmp_path):
    info = save_fake(make_run(tmp_path, "a-1", steps=4), 4, 1.0)
    write_json(info.path / "state.json", {"data_fingerprint": "aa"})
    for name in ("aa", "bb"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_json(tmp_path / "data" / name / "dataset.json", {"corpus": f"corpus-{name}"})
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await opened(pilot, 1)
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, PreparedDataScreen))
        await until(pilot, lambda: "unused: 1" in shown(pilot.app.screen))
        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        assert "corpus-bb" in pilot.app.screen.question
        await pilot.press("down", "enter")
        await until(pilot, lambda: not (tmp_path / "data" / "bb").exists())
        assert (tmp_path / "data" / "aa").exists()


def held_up(monkeypatch, name):
    """Lets a function of a service wait until the event that is returned is set; in the screen's thread it fails."""
    go_on, real = threading.Event(), pkgutil.resolve_name(name)

    def slow(path):
        assert threading.current_thread() is not threading.main_thread()
        assert go_on.wait(60)
        return real(path)

    monkeypatch.setattr(name, slow)
    return go_on


async def test_what_takes_long_in_the_trash_keeps_no_key_waiting(tmp_path, monkeypatch):
    move_to_trash(tmp_path, make_run(tmp_path, "a-1", steps=4))
    make_run(tmp_path, "b-1", steps=4)
    measured = held_up(monkeypatch, "workbench.runs.trash.directory_size")
    removed = held_up(monkeypatch, "workbench.runs.trash.remove_directory")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await opened(pilot, 1)
        await pilot.press("x")
        await until(pilot, lambda: "Measuring the size" in shown(pilot.app.screen))
        measured.set()
        await until(pilot, lambda: "In the trash: 1 run, " in shown(pilot.app.screen))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Deleting" in shown(pilot.app.screen))
        assert pilot.app.screen.items == [] and list((tmp_path / "trash").iterdir())
        removed.set()
        await until(pilot, lambda: "The trash is empty." in shown(pilot.app.screen))
        assert not list((tmp_path / "trash").iterdir())


async def test_taking_prepared_data_away_keeps_no_key_waiting(tmp_path, monkeypatch):
    make_run(tmp_path, "a-1")
    (tmp_path / "data" / "bb").mkdir(parents=True)
    write_json(tmp_path / "data" / "bb" / "dataset.json", {"corpus": "corpus-bb"})
    removed = held_up(monkeypatch, "workbench.data.prepared_data.remove_directory")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await opened(pilot, 1)
        await pilot.press("D")
        await until(pilot, lambda: "unused: 1" in shown(pilot.app.screen))
        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Deleting" in shown(pilot.app.screen))
        removed.set()
        await until(pilot, lambda: "No prepared data yet." in shown(pilot.app.screen))
