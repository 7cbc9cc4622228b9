"""Any text on the Chat screen: Chinese through tokens that split its characters, and text that is out to do harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len
from textual import events
from textual.app import App
from textual.widgets import Static

from llm.config import from_toml
from llm.run import Run
from tests.conftest import TINY
from tests.workbench.chat.chat_for_tests import ChatApp, opened, text_of
from tests.workbench.waiting import shown, until_true
from workbench.charts.export import strips_of
from workbench.chat.microscope_screen import Microscope
from workbench.chat.prompt import PromptArea
from workbench.chat.tokens import PART
from workbench.chat.transcripts import load
from workbench.text import clean

HOSTILE = "a\x1b]0;evil\x07\x9b2J\x1b[31m[bold]x[/]\u202eשלום\u200b\ufeff\U000e0041日本e\u0301❤\ufe0f👍🏽"
"""Titles, clear-screen and colours, markup, right-to-left overrides, zero-width and invisible characters, emoji."""


@pytest.fixture(scope="module")
def chinese_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt a Chinese sentence by heart, byte by byte."""
    from llm.training.run import run_training

    folder = tmp_path_factory.mktemp("chinese")
    corpus = Path(folder / "corpus.txt")
    corpus.write_text("小猫看见月亮。" * 2000, encoding="utf-8")
    text = TINY.replace("n_layer = 1", "n_layer = 2").replace("d_model = 32", "d_model = 64")
    text = text.replace("context = 32", "context = 64").replace("steps = 20", "steps = 200")
    text = text.replace("every = 10", "every = 200")
    run = Run.create(folder, "chinese-1", from_toml(text + f"[data]\ncorpus = {str(corpus)!r}\nboundary = 'none'\n"))
    run_training(run, folder)
    return run


async def test_chinese_is_typed_streamed_wrapped_edited_and_replayed(chinese_run):
    app = ChatApp(chinese_run.path.parent.parent)
    async with app.run_test(size=(31, 24)) as pilot:
        screen = app.screen
        await until_true(lambda: screen.session.model is not None)
        screen.panel.set_value("temperature", 0.0)
        screen.panel.set_value("max_tokens", 15 + 3 * 21)
        await pilot.press("小", "猫")
        assert screen.prompt.text == "小猫"
        await pilot.press("enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        first = screen.session.exchanges[0]
        assert first.reply == "看见月亮。" + "小猫看见月亮。" * 3
        assert len(first.tokens) == len(first.reply.encode()), "three tokens a character"
        view = screen.transcript
        rows = [view.render_line(y).text for y in range(view.size.height)]
        assert all(cell_len(row) == view.scrollable_content_region.width for row in rows)
        assert "".join(row.rstrip() for row in rows) == "小猫" + first.reply
        await pilot.press("escape", "e", "看", "enter")
        await until_true(lambda: len(screen.session.conversation.exchanges) == 2 and not screen.session.writing)
        second = screen.session.exchanges[0]
        assert second.prompt == "小猫看" and second.reply.startswith("见月亮。小猫看")
        assert load(screen.session.conversation.file).exchanges[2].reply == second.reply
        await pilot.press("escape", "R")
        await until_true(lambda: "all 78 tokens are identical" in text_of(screen, "#chat-status"))
        await pilot.press("m")
        await until_true(lambda: isinstance(app.screen, Microscope) and app.screen.explained is not None)
        assert app.screen.explained.texts[:6] == [PART, PART, "见", PART, PART, "月"]
        assert "\\xe8" in str(app.screen.query_one("#microscope-head", Static).render())


async def test_hostile_text_in_a_prompt_a_reply_and_a_file(home, chat_model):
    chat_model.words = [HOSTILE[:9], HOSTILE[9:]]
    (home / "\u202eevil\x1b[2J.txt").write_text(HOSTILE, encoding="utf-8")
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        pilot.app.post_message(events.Paste(HOSTILE))
        await until_true(lambda: screen.prompt.text == HOSTILE)
        assert clean(HOSTILE) in shown(screen), "in the field"
        await pilot.press("enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert chat_model.prompts[0][0] == HOSTILE, "what was pasted is what the model reads"
        assert clean(HOSTILE) * 2 in screen.transcript.shown_text.replace("\n", "")
        await pilot.press("escape", "e")
        assert screen.prompt.text == HOSTILE, "edited as it was sent"
        await pilot.press("escape", "escape", "y")
        assert pilot.app.clipboard == HOSTILE
        screen.prompt.text = f"FILE:{home}/\u202eevil\x1b[2J.txt"
        screen.prompt.focus()
        await pilot.press("enter")
        await until_true(lambda: len(screen.session.exchanges) == 2 and not screen.session.writing)
        assert screen.session.exchanges[1].context == HOSTILE
        await pilot.press("f3")
        await until_true(lambda: "2 replies" in shown(pilot.app.screen))
        assert not set(shown(pilot.app.screen)) & set("\x1b\x07\x9b\u202e\u200b\ufeff\ufe0f")


async def test_a_line_of_100_000_characters(home, chat_model):
    long = "日" * 50_000 + "x" * 50_000
    chat_model.words = [long]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        pilot.app.post_message(events.Paste(long))
        await until_true(lambda: screen.prompt.text == long)
        await pilot.press("enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert screen.transcript.text == long * 2
        await pilot.press("escape", "y")
        assert pilot.app.clipboard == long


class Field(App[None]):
    def compose(self):
        yield PromptArea()


async def test_what_the_field_shows_is_as_wide_as_it_counts():
    text = "\u200b" * 30 + "👍🏽" * 20 + "\u202e" * 30
    async with Field().run_test(size=(30, 12)) as pilot:
        field = pilot.app.query_one(PromptArea)
        field.focus()
        pilot.app.post_message(events.Paste(text))
        await until_true(lambda: field.text == text)
        await pilot.pause()
        rows = [strip.text for strip in strips_of(pilot.app.screen)]
        assert sum(row.count("�") for row in rows) == 60 and sum(row.count("👍") for row in rows) == 20
        await pilot.press("z")
        assert field.text == text + "z", "the cursor is where the paste ended"


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
async def test_only_line_breaks_break_lines_in_the_field(end):
    async with Field().run_test(size=(30, 12)) as pilot:
        field = pilot.app.query_one(PromptArea)
        field.text = f"a{end}b\r\nc"
        assert field.text == f"a{clean(end)}b\nc"
