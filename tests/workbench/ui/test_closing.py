"""Keys that come faster than windows close, and terminals in which nothing has room."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from tests.workbench.opening import app_with
from tests.workbench.scripted import scripted_run
from tests.workbench.waiting import until
from workbench.app import WorkbenchApp
from workbench.chat.model_dialog import ChooseModel
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.palette import Palette


def press_at_once(app: WorkbenchApp, *keys: str) -> None:
    """Put keys into the queue of the app before it looks at the first, as a fast hand or a paste does."""
    for key in keys:
        app.post_message(events.Key(key, None))


async def test_a_question_is_answered_once(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for keys in (("enter", "enter"), ("escape", "escape"), ("enter", "escape"), ("escape", "enter")):
            answers: list[str | None] = []
            await app.push_screen(Ask("Really?", [Answer("yes", "Yes")]), answers.append)
            await pilot.pause()
            press_at_once(app, *keys)
            await until(pilot, lambda answers=answers: answers)  # type: ignore[misc]
            await pilot.pause(0.1)
            assert answers in (["yes"], [""])
            assert len(set(keys)) > 1 or answers == ["yes" if keys[0] == "enter" else ""]
            assert len(app.screen_stack) == 1


async def test_a_line_is_taken_once(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        answers: list[str | None] = []
        await app.push_screen(AskText("Name?", value="a"), answers.append)
        line = app.screen.query_one(Input)
        line.post_message(Input.Submitted(line, "a"))
        line.post_message(Input.Submitted(line, "b"))
        await until(pilot, lambda: answers)
        await pilot.pause(0.2)
        assert answers == ["a"]
        assert len(app.screen_stack) == 1


async def test_a_key_that_was_looked_up_in_a_window_without_widgets_does_nothing(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        window = ChooseModel(home)
        assert not window.check_action("page", (5,)) and window.check_action("dismiss", (None,))
        await app.push_screen(window)
        assert window.check_action("page", (5,))
        await window.dismiss()
        assert not await app.run_action("page(5)", window) and not window.check_action("dismiss", (None,))
        await pilot.pause()


async def test_two_dismissals_close_one_window(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        first, second = Ask("first", [Answer("a", "A")]), Ask("second", [Answer("b", "B")])
        await app.push_screen(first)
        await app.push_screen(second)
        second.dismiss("b")
        second.dismiss("b")
        first_is_front = app.screen is first
        await pilot.pause(0.1)
        assert first_is_front
        assert app.screen is first
        assert not second.is_attached


async def test_a_window_behind_another_does_not_close_that(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        behind, front = Ask("behind", [Answer("a", "A")]), Ask("front", [Answer("b", "B")])
        await app.push_screen(behind)
        await app.push_screen(front)
        behind.dismiss("a")
        await pilot.pause(0.1)
        assert app.screen is front


async def test_a_chooser_closed_while_it_mounts(home: Path) -> None:
    scripted_run(home, "old-1", 5, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for keys in (("escape",), ("escape", "escape"), ("down", "enter", "enter"), ("q", "escape", "j")):
            app.push_screen(ChooseModel(home))
            press_at_once(app, *keys)
            await close_all(pilot)
        assert app.current_mode == "presets"


FAST = (("escape",), ("escape", "escape"), ("enter", "enter"), ("t", "h", "enter"), ("down", "escape"), ("pagedown",))


async def test_the_palette_bears_fast_keys(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for keys in FAST:
            press_at_once(app, "ctrl+p", *keys, "ctrl+p", *keys)
            await close_all(pilot)
        assert app.is_running


async def close_all(pilot: Pilot[int]) -> None:
    """Let it come to rest, and close what is open."""
    await pilot.pause(0.2)
    for _ in range(10):
        if len(pilot.app.screen_stack) > 1:
            await pilot.press("escape")
            await pilot.pause(0.05)
    assert len(pilot.app.screen_stack) == 1


@pytest.mark.parametrize("width", [1, pytest.param(3, marks=pytest.mark.slow)])
async def test_windows_in_terminals_a_few_columns_wide(home: Path, width: int) -> None:
    app = app_with(home)
    answers = [Answer("", "Keep it"), Answer("delete", "Delete")]
    async with app.run_test(size=(width, 24)) as pilot:
        for open_window in (
            lambda: app.push_screen(Ask("Delete old-1 with its checkpoints?", answers)),
            app.action_command_palette,
            lambda: app.push_screen(ChooseModel(home)),
        ):
            open_window()
            await pilot.pause(0.2)
            for key in ("pagedown", "pageup", "down", "x", "backspace"):
                await pilot.press(key)
            await pilot.resize_terminal(width + 1, 2)
            await pilot.press("pagedown", "escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)
            await pilot.resize_terminal(width, 24)


async def test_paging_in_a_list_without_height(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        listing = app.screen.query_one(OptionList)
        marked = listing.highlighted
        assert marked is not None
        listing.styles.height = 0
        listing.styles.border = ("none", "black")
        await pilot.pause()
        assert listing.scrollable_content_region.height == 0
        listing.action_page_down()
        assert listing.highlighted != marked
        listing.action_page_up()
        assert listing.highlighted == marked


async def test_the_palette_opens_once(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        press_at_once(app, "ctrl+p", "ctrl+p", "ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, Palette))
        await pilot.pause(0.2)
        assert len(app.screen_stack) == 2
