"""Text from the web on the Data screen: fetched with progress, kept, learnt from, forgotten."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

import workbench.data.screen
from llm.data.text.datasets import dataset_folder, find_dataset
from tests.data.text.http_for_tests import Behaviour, Site, serving
from tests.workbench.opening import app_with, open_data_screen
from tests.workbench.waiting import shown, until, was_notified
from workbench.app import WorkbenchApp
from workbench.data.corpora import Contents, Entry, add_corpus, list_corpora, path_problem, read_added
from workbench.data.screen import DataScreen
from workbench.presets.screen import PresetsScreen
from workbench.ui.dialogs import Ask, AskText

LINES = "Ada saw the moon, and the moon saw Ada.\n" * 500


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server on this machine with one text."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        running.files["/moon.txt"] = LINES.encode()
        running.etags["/moon.txt"] = '"one"'
        yield running


@pytest.fixture
def app(home: Path) -> WorkbenchApp:
    return app_with(home)


async def ask_for(app: WorkbenchApp, pilot: Pilot[int], address: str) -> None:
    """Type an address into the dialog of `a`."""
    await pilot.press("a")
    await until(pilot, lambda: isinstance(app.screen, AskText))
    app.screen.query_one(Input).value = address
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(app.screen, DataScreen))


async def test_an_address_is_fetched_shown_used_and_forgotten(app: WorkbenchApp, site: Site, home: Path) -> None:
    address = f"{site.url}/moon.txt"
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await ask_for(app, pilot, address)
        await until(pilot, lambda: screen.current == f"added {address}")
        await until(
            pilot, lambda: "Ada saw the moon" in shown(screen) and "from the web, 20 kB downloaded" in shown(screen)
        )
        assert read_added(home) == [{"path": address, "text_field": "text"}]
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and "Your changes" in shown(app.screen))
        assert app.screen.edited["quickstart"].data.corpus == address  # type: ignore[attr-defined]
        await pilot.press("5")
        await until(pilot, lambda: app.screen is screen and screen.current == f"added {address}")
        for answer, gone in (("enter", False), ("down", True)):
            await pilot.press("d")
            await until(pilot, lambda: isinstance(app.screen, Ask) and "Remove and delete" in shown(app.screen))
            await pilot.press(*([answer, "enter"] if gone else [answer]))
            await until(pilot, lambda: app.screen is screen)
            await until(pilot, lambda gone=gone: (f"added {address}" in screen.entries) is not gone)
            assert dataset_folder(find_dataset(address), home).exists() is not gone


async def test_a_download_shows_progress_is_canceled_and_resumes(app: WorkbenchApp, site: Site, home: Path) -> None:
    address = f"{site.url}/moon.txt"
    site.script = [Behaviour(drop_after=4000), Behaviour(hang=True)]
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await ask_for(app, pilot, address)
        await until(pilot, lambda: "Downloading moon" in shown(screen) and "x Cancel" in shown(screen))
        await until(pilot, lambda: len(site.requests) == 2)
        await ask_for(app, pilot, address)
        await until(pilot, lambda: was_notified(app, "press x to cancel it"))
        await pilot.press("x")
        site.released.set()
        await until(pilot, lambda: screen.jobs.job is None)
        await until(pilot, lambda: was_notified(app, "download it again to resume"))
        assert f"added {address}" not in screen.entries
        await ask_for(app, pilot, address)
        await until(pilot, lambda: screen.current == f"added {address}")
    fetched_from = int(site.requests[-1][1].removeprefix("bytes=").removesuffix("-"))
    assert fetched_from >= 4000, "what is there is not fetched again"  # more, where bytes came before the cancelling
    text = dataset_folder(find_dataset(address), home) / "moon.txt"
    assert text.read_text(encoding="utf-8") == LINES


async def test_what_went_wrong_is_reported(app: WorkbenchApp, site: Site) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await ask_for(app, pilot, f"{site.url}/absent.txt")
        await until(pilot, lambda: was_notified(app, "404"))
        assert screen.jobs.job is None and not any(key.startswith("added") for key in screen.entries)


async def test_what_is_not_here_any_more_is_fetched_again(app: WorkbenchApp, site: Site, home: Path) -> None:
    address = f"{site.url}/moon.txt"
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await ask_for(app, pilot, address)
        await until(pilot, lambda: screen.current == f"added {address}")
        (dataset_folder(find_dataset(address), home) / "moon.txt").unlink()
        await pilot.press("1", "5")
        await until(pilot, lambda: screen.entry is not None and not screen.entry.here)
        await until(pilot, lambda: "Not downloaded. Press Enter to download it." in shown(screen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("down", "enter")
        await until(pilot, lambda: screen.entry is not None and screen.entry.here)


async def test_contents_that_were_read_before_the_list_changed_are_not_shown(
    app: WorkbenchApp, site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{site.url}/moon.txt"
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    read = workbench.data.screen.read_contents

    def read_slowly(entry: Entry, home: Path) -> Contents:
        if entry.corpus != address or not entry.here:
            return read(entry, home)
        begun.set()
        go_on.wait(30)
        contents = read(entry, home)
        done.set()
        return contents

    monkeypatch.setattr(workbench.data.screen, "read_contents", read_slowly)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await ask_for(app, pilot, address)
        await until(pilot, begun.is_set)
        (dataset_folder(find_dataset(address), home) / "moon.txt").unlink()
        await pilot.press("1", "5")
        await until(pilot, lambda: "Not downloaded. Press Enter to download it." in shown(screen))
        go_on.set()
        await until(pilot, done.is_set)
        await pilot.pause(0.3)
        assert "Not downloaded. Press Enter to download it." in shown(screen)


def test_the_field_of_rows_from_the_web_is_found(site: Site, home: Path) -> None:
    from llm.data.text.fetch import RetryPolicy
    from tests.data.text.http_for_tests import fetched

    site.files["/rows.jsonl"] = (json.dumps({"id": "7", "body": "a long enough text"}) + "\n").encode()
    address = f"{site.url}/rows.jsonl"
    fetched(find_dataset(address), home, RetryPolicy())
    assert [entry.corpus for entry in list_corpora(home) if entry.kind == "added"] == [address], "listed at once"
    assert add_corpus(home, address).text_field == "body"
    (entry,) = (entry for entry in list_corpora(home) if entry.kind == "added")
    assert (entry.corpus, entry.text_field) == (address, "body")


def test_addresses_are_checked_as_they_are_typed() -> None:
    assert path_problem("https://example.org/text.txt") == ""
    assert "cannot be downloaded" in path_problem("ftp://example.org/text.txt")
