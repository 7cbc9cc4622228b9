"""The Chat screen in the real app: with a model of words for its keys, and with a trained one for the whole path."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input, Static

import workbench.app as app_module
import workbench.chat.sampling_panel as knobs_module
import workbench.chat.talk_screen as talk_module
import workbench.chat.transcripts_dialog as past_module
from llm.config import DecodeConfig, parse_value
from llm.errors import UserError
from tests.workbench.chat.test_chat_service import FakeTalker
from workbench.app import WorkbenchApp
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.sampling_panel import ParameterRow, parameter_fields, written
from workbench.chat.service import ChatService
from workbench.chat.transcripts import load


class ChatApp(WorkbenchApp):
    CSS_PATH = Path(app_module.__file__).with_name("app.tcss")
    DEFAULT_MODE = "chat"


async def until(condition, what="the condition", seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come true"
        await asyncio.sleep(0.01)


def text_of(screen, selector):
    return str(screen.query_one(selector, Static).render())


@pytest.fixture
def talker(monkeypatch):
    """The screen talks to this one, whatever it opens."""
    talker = FakeTalker()
    talker.context = 200

    def service(home, training, post):
        return ChatService(home, training, post, opener=lambda *arguments: talker)

    monkeypatch.setattr(talk_module, "ChatService", service)
    return talker


async def opened(pilot):
    screen = pilot.app.screen
    screen.open_reference("fake")
    await until(lambda: screen.model is not None, "a model")
    return screen


async def test_without_a_model_it_says_where_to_get_one(home):
    async with ChatApp(home).run_test(size=(120, 24)) as pilot:
        await until(lambda: "No model yet" in text_of(pilot.app.screen, "#model-facts"))
        await pilot.press(*"hello", "enter")
        assert pilot.app.screen.prompt.text == "hello", "what was typed is not lost"
        assert "ctrl+o" in text_of(pilot.app.screen, "#chat-status")


@pytest.fixture
def slow_opening(monkeypatch, talker):
    """Set it, and models open; a reference of "bad" is refused then."""
    gate = threading.Event()

    def opener(home, training, reference, cancelled):
        assert gate.wait(60)
        if reference == "bad":
            raise UserError("bad is no model")
        return talker

    monkeypatch.setattr(
        talk_module, "ChatService", lambda home, training, post: ChatService(home, training, post, opener=opener)
    )
    yield gate
    gate.set()


async def test_what_is_sent_while_the_model_is_opened_goes_out_once_it_is_there(home, talker, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("fake")
        await pilot.press(*"Once ", "enter")
        assert "sent when the model is there" in text_of(screen, "#chat-status")
        await pilot.press(*"then", "enter")
        assert screen.prompt.text == "then" and screen.held == "Once ", "one at a time"
        slow_opening.set()
        await until(lambda: screen.exchanges and not screen.writing)
        assert screen.transcript.text == "Once one two three"
        assert screen.prompt.text == "then" and screen.held is None


async def test_escape_takes_back_what_waits_for_the_model(home, talker, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("fake")
        await pilot.press(*"Once", "enter", *"then", "escape")
        assert screen.prompt.text == "Once\nthen" and screen.prompt.has_focus
        slow_opening.set()
        await until(lambda: screen.model is not None)
        await pilot.pause()
        assert not screen.exchanges and screen.prompt.text == "Once\nthen"
        await pilot.press("enter")
        await until(lambda: screen.exchanges and not screen.writing)
        assert talker.prompts[0][0] == "Once\nthen"


async def test_what_waits_comes_back_from_a_model_that_is_refused(home, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("bad")
        await pilot.press(*"Once", "enter")
        slow_opening.set()
        await until(lambda: "bad is no model" in text_of(screen, "#model-facts"))
        assert screen.prompt.text == "Once" and screen.held is None


async def test_a_prompt_goes_on_as_text(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"Once ", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        assert screen.transcript.text == "Once one two three"
        assert screen.prompt.text == ""
        status = text_of(screen, "#chat-status")
        assert "3 tokens" in status and "20 tokens/s" in status
        assert text_of(screen, "#model-context") == "context ▰▱▱▱▱▱▱▱ 7/200"
        assert "fake@1" in text_of(screen, "#model-facts")


async def test_keys_that_come_all_at_once_are_taken_in_their_order(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for key in (*"Once", "enter"):  # as a terminal delivers a burst: nothing is processed in between
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else "\r"))
        await until(lambda: screen.exchanges and not screen.writing)
        assert screen.transcript.text == "Onceone two three"
        assert screen.prompt.text == ""


async def test_a_newline_key_and_the_prompts_before(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("a", "ctrl+j", "b", "enter")
        await until(lambda: talker.prompts and not screen.writing)
        assert talker.prompts[0][0] == "a\nb"
        await pilot.press("c", "enter")
        await until(lambda: len(talker.prompts) == 2 and not screen.writing)
        await pilot.press(*"draft", "up")
        assert screen.prompt.text == "c"
        await pilot.press("up")
        assert screen.prompt.text == "a\nb"
        await pilot.press("down", "down")
        assert screen.prompt.text == "draft"


async def test_escape_stops_and_typing_meanwhile_is_kept(home, talker):
    talker.gate, talker.words = threading.Semaphore(2), ["w "] * 50
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: "w " in screen.transcript.text)
        await pilot.press(*"next", "enter")
        assert screen.prompt.text == "next" and "still writing" in text_of(screen, "#chat-status")
        await pilot.press("escape")
        talker.gate.release(3)
        await until(lambda: not screen.writing)
        assert "stopped" in text_of(screen, "#chat-status")
        assert screen.transcript.text.count("w ") <= 4


async def test_knobs_are_checked_as_typed_and_hold_at_once(home, talker):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert screen.panel.params.temperature == 0.5, "the run's own value"
        await pilot.press("f2")
        field = screen.query_one("#knob-temperature Input", Input)
        await until(lambda: field.has_focus)
        field.value = "1.5"
        await until(lambda: screen.service.params.temperature == 1.5)
        row = screen.query_one("#knob-temperature", ParameterRow)
        assert row.has_class("changed")
        field.value = "hot"
        await until(lambda: row.has_class("wrong"))
        assert screen.service.params.temperature == 1.5
        assert "must be" in text_of(screen, "#knobs-help")
        await pilot.press("ctrl+l")
        await until(lambda: screen.service.params.temperature == 0.5)
        assert not row.has_class("wrong") and not row.has_class("changed")
        await pilot.press("down")
        await until(lambda: screen.query_one("#knob-top-k Input", Input).has_focus)
        await pilot.press("f2")
        await until(lambda: screen.prompt.has_focus)


async def test_what_was_set_by_hand_stays_when_the_model_changes(home, talker):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.query_one("#knob-top-k Input", Input).value = "7"
        await until(lambda: screen.panel.params.top_k == 7)
        talker.decode = type(talker.decode)(temperature=0.9)
        screen.open_reference("fake-2")
        await until(lambda: screen.model is not None)
        assert (screen.panel.params.temperature, screen.panel.params.top_k) == (0.9, 7)


async def test_again_takes_the_next_seed_and_go_on_goes_on(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: len(talker.prompts) == 1 and not screen.writing)
        await pilot.press("ctrl+r")
        await until(lambda: len(talker.prompts) == 2 and not screen.writing)
        assert screen.transcript.text == "2/2 xone two three"
        assert [params.seed for _, params in talker.prompts] == [1, 2]
        await pilot.press("ctrl+g")
        await until(lambda: len(talker.prompts) == 3 and not screen.writing)
        assert talker.prompts[2][0] == [0, 0, 1, 2], "the tokens of the prompt and of the reply"
        assert screen.exchanges[-1].context == "xone two three"
        assert screen.transcript.text == "2/2 xone two threeone two three"
        await pilot.press("ctrl+n")
        assert screen.transcript.text == "" and not screen.exchanges


async def test_the_last_seed_is_followed_by_the_first(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: len(talker.prompts) == 1 and not screen.writing)
        screen.panel.set_value("seed", 2**63 - 1)
        await pilot.press("ctrl+r")
        await until(lambda: len(talker.prompts) == 2 and not screen.writing)
        assert [params.seed for _, params in talker.prompts] == [1, 0]


async def test_what_is_half_typed_into_a_knob_does_not_reach_the_reply(home, talker, monkeypatch):
    monkeypatch.setattr(knobs_module, "TYPING_SECONDS", 3600.0)
    talker.words, talker.gate = ["w "] * 99, threading.Semaphore(0)
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: screen.writing)
        field = screen.panel.query_one("#knob-max-tokens Input", Input)
        field.focus()
        field.value = "90"
        await until(lambda: screen.panel.params.max_tokens == 90)
        assert screen.service.params.max_tokens == 200, "more may be typed"
        await pilot.press("enter")
        await until(lambda: screen.service.params.max_tokens == 90)
        monkeypatch.setattr(knobs_module, "TYPING_SECONDS", 0.05)
        field.value = "900"
        await until(lambda: screen.service.params.max_tokens == 900)
        talker.gate.release(200)
        await until(lambda: not screen.writing)
        field.value = "90"
        await pilot.pause()
        assert screen.service.params.max_tokens == 90, "at once, where nothing is written"


async def test_knobs_that_cannot_be_are_told_and_the_reply_goes_on(home, talker):
    talker.words, talker.gate = ["w "] * 9, threading.Semaphore(1)
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: "w " in screen.transcript.text)
        screen.service.params = DecodeConfig(order=("t",))
        talker.gate.release(2)
        await until(lambda: "not a logits processor" in text_of(screen, "#chat-status"))
        talker.gate.release(20)
        await until(lambda: not screen.writing)
        assert screen.exchanges[0].reply == "w " * 9 and not screen.exchanges[0].changes


async def test_a_question_from_a_file_stays_what_it_was(home, talker, tmp_path):
    talker.words = [" A", " cow."]
    file = tmp_path / "q.txt"
    file.write_text("What does a cow say?")
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+t")
        screen.prompt.text = f"FILE:{file}"
        await pilot.press("enter")
        await until(lambda: len(talker.prompts) == 1 and not screen.writing)
        file.unlink()
        await pilot.press("ctrl+r")
        await until(lambda: len(talker.prompts) == 2 and not screen.writing)
        assert not screen.exchanges[0].problem and talker.prompts[1][0] == talker.prompts[0][0]
        screen.prompt.text = "And a pig?"
        await pilot.press("enter")
        await until(lambda: len(talker.prompts) == 3 and not screen.writing)
        assert talker.prompts[2][0].startswith("Question: What does a cow say?\nAnswer: A cow.")
        kept = load(screen.conversation.file).exchanges[1]
        assert (kept.prompt, kept.file_text) == (f"FILE:{file}", "What does a cow say?")


async def test_at_the_end_the_figures_come_before_the_hints(home, talker):
    talker.in_training = True
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        said = text_of(screen, "#chat-status")
        assert said.index("tokens/s") < said.index("first after") < said.index("ctrl+g") < said.index("K keeps")


async def test_questions_and_answers(home, talker):
    talker.words = [" A", " cat."]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+t")
        assert screen.in_turns and "questions and answers" in text_of(screen, "#model-facts")
        for question in ("Who?", "Why?"):
            await pilot.press(*question, "enter")
            await until(lambda: not screen.writing)
        assert talker.prompts[1][0] == "Question: Who?\nAnswer: A cat.\n\nQuestion: Why?\nAnswer:"
        assert screen.transcript.text == "you    Who?\nmodel  A cat.\n\nyou    Why?\nmodel  A cat."


async def test_hostile_text_and_a_faithful_copy(home, talker):
    hostile = "\x1b]0;evil\x07[bold]x[/bold]\u202e"
    talker.words = [hostile]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        shown = "".join(screen.transcript.render_line(y).text for y in range(3))
        assert "␛]0;evil␇[bold]x[/bold]\ufffd" in shown
        await pilot.press("escape", "y")
        assert pilot.app.clipboard == hostile


async def test_a_long_reply_stays_where_it_was_scrolled_to(home, talker):
    talker.words = [f"line {number}\n" for number in range(80)]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        await until(lambda: screen.transcript.is_vertical_scroll_end)
        screen.transcript.scroll_to(y=5, animate=False, immediate=True)
        screen.transcript.write("more\n" * 5)
        await pilot.pause()
        assert screen.transcript.scroll_offset.y == 5


async def test_a_trained_model_is_chosen_and_talked_to(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        await until(lambda: screen.model is not None, "the newest run opened by itself")
        assert "tiny-1@20" in text_of(screen, "#model-facts")
        await pilot.press("ctrl+o")
        await until(lambda: isinstance(app.screen, ChooseModel) and app.screen.choices)
        await pilot.press(*"@10", "enter")
        await until(lambda: screen.model is not None and screen.model.name == "tiny-1@10")
        await pilot.press(*"Ada", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        first = screen.exchanges[0].reply
        assert len(first) > 20 and "\x1b" not in first
        await pilot.press(*"Ada", "enter")
        await until(lambda: len(screen.exchanges) == 2 and not screen.writing)
        assert screen.exchanges[1].reply == first, "same checkpoint, prompt, knobs and seed"
        await pilot.press("ctrl+t")
        assert not screen.in_turns and "plain text" in text_of(screen, "#chat-status")


async def test_a_reference_that_does_not_exist(home):
    async with ChatApp(home).run_test(size=(120, 24)) as pilot:
        pilot.app.screen.open_reference("nothing@best")
        await until(lambda: "there is no run named nothing" in text_of(pilot.app.screen, "#model-facts"))


async def test_tiny_terminal(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for size in ((1, 1), (20, 6), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.press("x", "enter")
            await until(lambda: not screen.writing)


def test_lists_are_written_as_they_are_read():
    for field in parameter_fields():
        for value in (field.default, *((("a", 'b,"c'), ("\n", "x y")) if field.type is tuple else ())):
            assert parse_value(field, written(value)) == value


async def test_a_reply_that_is_being_written_is_kept_when_the_program_ends(home, talker):
    talker.gate, talker.words = threading.Semaphore(2), ["w "] * 50
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until(lambda: "w " in screen.transcript.text)
    talker.gate.release(50)
    (file,) = (home / "transcripts").iterdir()
    kept = load(file).exchanges[1]
    assert (kept.prompt, kept.reason, kept.model) == ("x", "cancelled", "fake@1") and kept.reply.startswith("w ")


async def test_prompts_of_earlier_days_come_back(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for prompt in ("a", "b"):
            await pilot.press(prompt, "enter")
            await until(lambda: screen.exchanges and not screen.prompt.text and not screen.writing)
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await until(lambda: screen.prompt.prompts == ["a", "b"])
        await pilot.press("up", "up")
        assert screen.prompt.text == "a"


async def test_what_went_wrong_stays_with_its_prompt(home, talker):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"FILE:gone.txt", "enter")
        await until(lambda: screen.exchanges and not screen.writing)
        await pilot.press("escape", "p")
        assert "gone.txt" in screen.transcript.text.splitlines()[-1]
        assert load(screen.conversation.file).exchanges[1].problem in screen.transcript.text
        assert "m" not in screen.active_bindings, "there is no token to look at"


async def test_the_order_of_the_knobs_is_shown_and_checked(home, talker):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.panel.set_all(DecodeConfig(temperature=0.5, top_k=5, repetition_penalty=1.1))
        await until(lambda: "top k" in text_of(screen, "#knobs-order"))
        assert text_of(screen, "#knobs-order") == "logits → repetition penalty → temperature → top k → draw"
        screen.panel.set_value("order", ("top_k",))
        assert text_of(screen, "#knobs-order") == "logits → top k → repetition penalty → temperature → draw"
        screen.panel.set_value("order", ("topk",))
        assert "'topk' is not a logits processor" in text_of(screen, "#knobs-order")


async def test_all_knobs_are_shown_where_there_is_room(home, talker):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert len(screen.panel.query(ParameterRow)) == 8 and "all knobs" in text_of(screen, "#knobs-help")
        await pilot.resize_terminal(200, 60)
        await until(lambda: len(screen.panel.query(ParameterRow)) == len(parameter_fields()))
        await until(lambda: screen.panel.query(ParameterRow).last().region.height == 1)
        tops = [row.region.y for row in screen.panel.query(ParameterRow)]
        assert tops == list(range(tops[0], tops[0] + len(tops))), "a line each"
        assert screen.prompt.has_focus


async def test_a_window_that_is_closed_while_it_reads(home, talker, monkeypatch):
    read = threading.Event()
    monkeypatch.setattr(past_module, "list_past", lambda home: read.wait(20) and [])
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("f3", "escape")
        await until(lambda: pilot.app.screen is screen)
        read.set()
        await pilot.pause(0.2)
        assert pilot.app.is_running and pilot.app.screen is screen
