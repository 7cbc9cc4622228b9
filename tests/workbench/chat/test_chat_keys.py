"""Every key of the Chat screen and of the windows over it: pressed, and seen to do what it says.

Each test ends by asking whether there is a key of its screen that it has not pressed.
"""

from __future__ import annotations

import shutil

import pytest
from textual.binding import Binding
from textual.widgets import DataTable, Input

from llm.config import DecodeConfig
from llm.run import Run
from tests.workbench.chat.chat_for_tests import ChatApp, opened, text_of
from tests.workbench.waiting import until_true
from workbench.chat.conversation_view import ConversationView
from workbench.chat.microscope_screen import Choices, Microscope
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.prompt import PromptArea
from workbench.chat.sampling_panel import ParameterRow, SamplingPanel
from workbench.chat.sampling_presets import load_sampling_presets, save_sampling_preset
from workbench.chat.sampling_presets_dialog import SamplingPresetsDialog
from workbench.chat.screen import ChatScreen
from workbench.chat.split_screen import Split
from workbench.chat.timelapse_screen import TimeLapse
from workbench.chat.transcript_view import Transcript
from workbench.chat.transcripts_dialog import PastConversations
from workbench.ui.chooser import Chooser

SWEEP = pytest.mark.slow
"""What a key of these windows does is also seen, for most keys, by the tests of the windows."""


class Keyboard:
    """Presses keys, and remembers which."""

    def __init__(self, pilot):
        self.pilot, self.pressed = pilot, set()

    async def __call__(self, *keys):
        self.pressed.update(keys)
        await self.pilot.press(*keys)

    def misses(self, *classes):
        """Keys that the classes themselves bind and that were not pressed."""
        bindings = [one for node in classes for one in Binding.make_bindings(node.__dict__["BINDINGS"])]
        return {binding.key for binding in bindings} - self.pressed


async def with_model(app):
    screen = app.screen
    await until_true(lambda: screen.session.model is not None)
    screen.panel.set_value("max_tokens", 12)
    return screen


async def say(press, screen, text):
    count = len(screen.session.conversation.exchanges)
    screen.prompt.focus()
    await press(*text, "enter")
    await until_true(lambda: len(screen.session.conversation.exchanges) == count + 1 and not screen.session.writing)


def status(screen):
    return text_of(screen, "#chat-status")


async def test_every_key_of_the_chat(trained_home):
    app = ChatApp(trained_home)
    async with app.run_test(size=(120, 40)) as pilot:
        press, screen = Keyboard(pilot), await with_model(app)

        async def opens(key, window, ready=lambda window: True):
            await press(key)
            await until_true(lambda: isinstance(app.screen, window) and ready(app.screen))
            await press("escape")
            await until_true(lambda: app.screen is screen and not screen.session.service.is_busy)

        await press("ctrl+t")
        assert "plain text" in status(screen)
        await say(press, screen, "Ada ")
        await say(press, screen, "Chen ")
        await press("escape")
        assert screen.transcript.has_focus
        await press("e")
        assert screen.prompt.has_focus and screen.prompt.text == "Chen "
        await press("escape")
        assert screen.sender.editing is None and screen.prompt.text == ""
        await press("escape")
        for key in ("m", "f4"):
            await opens(key, Microscope, lambda window: window.explained is not None)
        for key in ("s", "f5", "ctrl+o"):
            await opens(key, ChooseModel, lambda window: window.entries)
        for key in ("t", "f6"):
            await opens(key, TimeLapse, lambda window: window.ended)
        for key in ("f3", "slash"):
            await opens(key, PastConversations, lambda window: window.entries is not None)
        await opens("f8", SamplingPresetsDialog)
        screen.session.exchanges[1].live = True
        await press("K")
        await until_true(lambda: "now pinned" in status(screen))
        assert Run.open(trained_home, "tiny-1").meta()["pins"] == [20]
        for pinned in (["Chen "], []):
            await press("P")
            await until_true(lambda pinned=pinned: Run.open(trained_home, "tiny-1").meta()["prompts"] == pinned)
        await press("plus")
        assert "✓ good" in screen.transcript.text and "Marked good" in status(screen)
        await press("minus")
        assert "✗ bad" in screen.transcript.text
        await press("c", *" end", "enter")
        reply = screen.session.exchanges[1].reply.strip()
        assert f"✎ corrected: {reply} end" in screen.transcript.text and screen.transcript.has_focus
        await press("u", "u", "u")
        assert not screen.session.conversation.marks and "✓" not in screen.transcript.text
        await press("T")
        await until_true(lambda: "at least 2 replies" in status(screen))
        await press("R")
        await until_true(lambda: "all 12 tokens are identical" in status(screen))
        await press("y")
        assert app.clipboard == screen.session.exchanges[1].reply
        for key in ("x", "f7"):
            shutil.rmtree(trained_home / "exports", ignore_errors=True)
            await press(key)
            await until_true(lambda: list((trained_home / "exports").glob("*.md")) and "Exported to " in status(screen))
        await press("ctrl+r")
        await until_true(lambda: len(screen.session.conversation.exchanges) == 3 and not screen.session.writing)
        assert screen.session.conversation.position(screen.session.exchanges[1]) == (2, 2)
        await press("ctrl+g")
        await until_true(lambda: len(screen.session.exchanges) == 3 and not screen.session.writing)
        assert screen.session.exchanges[2].kind == "on"
        await press("p", "p", "p", "b")
        assert [one.prompt for one in screen.session.exchanges] == ["Ada "] and screen.prompt.has_focus
        await press("f2")
        await until_true(lambda: screen.panel.has_focus_within)
        await press("f2")
        await until_true(lambda: screen.prompt.has_focus)
        await press("ctrl+n")
        assert screen.transcript.text == "" and not screen.session.conversation.exchanges
        assert press.misses(ChatScreen) == {"f12"}, "in test_chat_screen.py"


async def test_escape_stops_a_reply_and_a_job(trained_home):
    app = ChatApp(trained_home)
    async with app.run_test(size=(120, 40)) as pilot:
        press, screen = Keyboard(pilot), await with_model(app)
        screen.panel.set_value("max_tokens", 100_000)
        screen.panel.set_value("ban_end", True)
        await press("A", "enter")
        await until_true(lambda: len(screen.transcript.text) > 50)
        assert "leave" in {active.binding.action.split("(")[0] for active in screen.active_bindings.values()}
        await press("escape")
        await until_true(lambda: not screen.session.writing)
        assert "stopped" in status(screen) and screen.session.exchanges[0].reason == "cancelled"


async def test_every_key_of_the_conversation(home, chat_model):
    chat_model.words = [f"line {number}\n" for number in range(60)]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await opened(pilot)
        await say(press, screen, "a")
        await press("ctrl+r")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        await say(press, screen, "b")
        await press("escape")
        view = screen.transcript
        await press("g")
        assert view.scroll_offset.y == 0
        await press("j")
        await until_true(lambda: view.scroll_offset.y == 1)
        await press("k")
        await until_true(lambda: view.scroll_offset.y == 0)
        await press("G")
        await until_true(lambda: view.is_vertical_scroll_end)
        await press("p", "p")
        assert view.picked.prompt == "a" and "branch 2 of 2" in status(screen)
        for key, place in (("left", 1), ("right", 2), ("h", 1), ("l", 2)):
            await press(key)
            assert screen.session.conversation.position(view.picked)[0] == place, key
        await press("n")
        assert view.picked.prompt == "b"
        assert press.misses(Transcript, ConversationView) == {"o"}, "in test_chat_screen.py"


@pytest.mark.parametrize(
    "newline", ["ctrl+j", *(pytest.param(key, marks=pytest.mark.slow) for key in ("shift+enter", "alt+enter"))]
)
async def test_every_key_of_the_prompt(newline, home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await opened(pilot)
        await press("a", newline, "b")
        assert screen.prompt.text == "a\nb"
        await press("enter")
        await until_true(lambda: chat_model.prompts and not screen.session.writing)
        await press("c", "up")
        assert screen.prompt.text == "a\nb"
        await press("down")
        assert screen.prompt.text == "c"
        assert press.misses(PromptArea) <= {"ctrl+j", "shift+enter", "alt+enter"} - {newline}


@SWEEP
async def test_every_key_of_the_sampling_panel(home, chat_model):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        press, screen = Keyboard(pilot), await opened(pilot)
        await pilot.press("f2")
        await press("down")
        assert screen.query_one("#param-top-k Input", Input).has_focus
        await press("7")
        await until_true(lambda: screen.session.service.params.top_k == 7)
        assert "top k" in text_of(screen, "#sampling-order")
        await press("ctrl+l")
        await until_true(lambda: screen.session.service.params.top_k == 0)
        await press("up")
        assert screen.query_one("#param-temperature Input", Input).has_focus
        await press("f8")
        await until_true(lambda: isinstance(pilot.app.screen, SamplingPresetsDialog))
        assert not press.misses(ParameterRow, SamplingPanel)


@SWEEP
async def test_every_key_of_the_microscope(trained_home):
    app = ChatApp(trained_home)
    async with app.run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await with_model(app)
        await say(press, screen, "Ada ")
        for close in ("q", "escape"):
            await press("f4")
            await until_true(lambda: isinstance(app.screen, Microscope) and app.screen.explained is not None)
            await press(close)
            await until_true(lambda: app.screen is screen)
        await press("f4")
        await until_true(lambda: isinstance(app.screen, Microscope) and app.screen.explained is not None)
        scope = app.screen
        for key, place in (("right", 1), ("l", 2), ("left", 1), ("h", 0), ("end", 11), ("home", 0)):
            await press(key)
            await until_true(lambda place=place: scope.explained.at == place, key)
        table = scope.query_one(DataTable)
        row = table.cursor_row
        await press("j")
        assert table.cursor_row == row + 1
        await press("k")
        assert table.cursor_row == row
        await press("down", "enter")
        await until_true(lambda: len(screen.session.conversation.exchanges) == 2 and not screen.session.writing)
        assert screen.session.exchanges[0].given == 1
        assert not press.misses(Microscope, Choices)


@SWEEP
async def test_every_key_of_the_split(trained_home):
    app = ChatApp(trained_home)
    async with app.run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await with_model(app)
        await say(press, screen, "Ada ")
        for close in ("q", "escape"):
            app.push_screen(Split(screen.session.service, screen.session.exchanges[0], "tiny-1@10"))
            await until_true(lambda: isinstance(app.screen, Split) and app.screen.done is not None)
            split = app.screen
            for key, at in (("right", 0), ("l", 1), ("left", 0), ("right", 1), ("h", 0)):
                await press(key)
                assert split.at == at, key
            await press("d")
            assert split.at == split.done.comparison.first_token
            await press(close)
            await until_true(lambda: app.screen is screen)
        assert not press.misses(Split)


@SWEEP
async def test_every_key_of_the_time_lapse(trained_home):
    app = ChatApp(trained_home)
    async with app.run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await with_model(app)
        run = Run.open(trained_home, "tiny-1")
        for close in ("q", "escape"):
            app.push_screen(TimeLapse(screen.session.service, run, ["Ada ", "Chen "], DecodeConfig(max_tokens=5)))
            await until_true(lambda: isinstance(app.screen, TimeLapse) and app.screen.ended)
            lapse = app.screen
            for key, at in (("right", 1), ("left", 0), ("l", 1), ("h", 0), ("end", 1), ("home", 0)):
                await press(key)
                assert lapse.at == at, key
            for key, which in (("down", 1), ("up", 0), ("j", 1), ("k", 0)):
                await press(key)
                assert lapse.which == which and lapse.query_one(Transcript).text.startswith(lapse.prompts[which]), key
            await press(close)
            await until_true(lambda: app.screen is screen)
        assert not press.misses(TimeLapse)


@SWEEP
async def test_every_key_of_a_chooser(home, chat_model):
    for number in range(25):
        save_sampling_preset(home, f"set-{number:02}", DecodeConfig(top_k=number + 1))
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        press, screen = Keyboard(pilot), await opened(pilot)
        await pilot.press("f8")
        await until_true(lambda: isinstance(pilot.app.screen, SamplingPresetsDialog) and pilot.app.screen.marked)
        window = pilot.app.screen
        for key, at in (("down", 1), ("up", 0), ("up", 24), ("pageup", 14), ("pagedown", 24), ("pagedown", 24)):
            await press(key)
            assert window.listing.highlighted == at, key
        await press("ctrl+d")
        assert "set-24" not in load_sampling_presets(home) and window.listing.option_count == 24
        await press("escape")
        await until_true(lambda: pilot.app.screen is screen)
        assert not press.misses(Chooser, SamplingPresetsDialog)
