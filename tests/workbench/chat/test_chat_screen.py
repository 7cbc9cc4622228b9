"""The Chat screen in the real app: with a model of words for its keys, and with a trained one for the whole path."""

from __future__ import annotations

import threading

import pytest
from textual import events

import workbench.chat.screen as screen_module
import workbench.chat.transcripts_dialog as past_module
from llm.errors import UserError
from tests.workbench.chat.chat_for_tests import ChatApp, opened, text_of
from tests.workbench.waiting import until_true
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.service import ChatService
from workbench.chat.transcripts import load
from workbench.ui.dialogs import AskText


async def test_without_a_model_it_says_where_to_get_one(home):
    async with ChatApp(home).run_test(size=(120, 24)) as pilot:
        await until_true(lambda: "No model yet" in text_of(pilot.app.screen, "#model-facts"))
        await pilot.press(*"hello", "enter")
        assert pilot.app.screen.prompt.text == "hello", "what was typed is not lost"
        assert "ctrl+o" in text_of(pilot.app.screen, "#chat-status")


@pytest.fixture
def slow_opening(monkeypatch, chat_model):
    """Set it, and models open; a reference of "bad" is refused then."""
    gate = threading.Event()

    def opener(home, training, reference, cancelled):
        assert gate.wait(60)
        if reference == "bad":
            raise UserError("bad is no model")
        return chat_model

    monkeypatch.setattr(
        screen_module, "ChatService", lambda home, training, post: ChatService(home, training, post, opener=opener)
    )
    yield gate
    gate.set()


async def test_a_prompt_sent_while_loading_is_sent_afterwards(home, chat_model, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("fake")
        await pilot.press(*"Once ", "enter")
        assert "sent when the model is loaded" in text_of(screen, "#chat-status")
        await pilot.press(*"then", "enter")
        assert screen.prompt.text == "then" and screen.sender.held == "Once ", "one at a time"
        slow_opening.set()
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert screen.transcript.text == "Once one two three"
        assert screen.prompt.text == "then" and screen.sender.held is None


async def test_escape_cancels_the_waiting_prompt(home, chat_model, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("fake")
        await pilot.press(*"Once", "enter", *"then", "escape")
        assert screen.prompt.text == "Once\nthen" and screen.prompt.has_focus
        slow_opening.set()
        await until_true(lambda: screen.session.model is not None)
        await pilot.pause()
        assert not screen.session.exchanges and screen.prompt.text == "Once\nthen"
        await pilot.press("enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert chat_model.prompts[0][0] == "Once\nthen"


async def test_the_waiting_prompt_returns_if_the_model_is_refused(home, slow_opening):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        screen.open_reference("bad")
        await pilot.press(*"Once", "enter")
        slow_opening.set()
        await until_true(lambda: "bad is no model" in text_of(screen, "#model-facts"))
        assert screen.prompt.text == "Once" and screen.sender.held is None


async def test_a_prompt_is_completed(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"Once ", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert screen.transcript.text == "Once one two three"
        assert screen.prompt.text == ""
        status = text_of(screen, "#chat-status")
        assert "3 tokens" in status and "20 tokens/s" in status
        assert text_of(screen, "#model-context") == "context ▰▱▱▱▱▱▱▱ 7/200"
        assert "fake@1" in text_of(screen, "#model-facts")


async def test_keys_that_come_all_at_once_are_taken_in_their_order(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for key in (*"Once", "enter"):  # as a terminal delivers a burst: nothing is processed in between
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else "\r"))
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert screen.transcript.text == "Onceone two three"
        assert screen.prompt.text == ""


async def test_a_newline_key_and_the_prompts_before(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("a", "ctrl+j", "b", "enter")
        await until_true(lambda: chat_model.prompts and not screen.session.writing)
        assert chat_model.prompts[0][0] == "a\nb"
        await pilot.press("c", "enter")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        await pilot.press(*"draft", "up")
        assert screen.prompt.text == "c"
        await pilot.press("up")
        assert screen.prompt.text == "a\nb"
        await pilot.press("down", "down")
        assert screen.prompt.text == "draft"


async def test_escape_stops_and_keeps_the_typed_text(home, chat_model):
    chat_model.gate, chat_model.words = threading.Semaphore(2), ["w "] * 50
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: "w " in screen.transcript.text)
        await pilot.press(*"next", "enter")
        assert screen.prompt.text == "next" and "A reply is being generated" in text_of(screen, "#chat-status")
        await pilot.press("escape")
        chat_model.gate.release(3)
        await until_true(lambda: not screen.session.writing)
        assert "stopped" in text_of(screen, "#chat-status")
        assert screen.transcript.text.count("w ") <= 4


async def test_regenerate_uses_the_next_seed_and_continue_continues(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: len(chat_model.prompts) == 1 and not screen.session.writing)
        await pilot.press("ctrl+r")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        assert screen.transcript.text == "2/2 xone two three"
        assert [params.seed for _, params in chat_model.prompts] == [1, 2]
        await pilot.press("ctrl+g")
        await until_true(lambda: len(chat_model.prompts) == 3 and not screen.session.writing)
        assert chat_model.prompts[2][0] == [0, 0, 1, 2], "the tokens of the prompt and of the reply"
        assert screen.session.exchanges[-1].context == "xone two three"
        assert screen.transcript.text == "2/2 xone two threeone two three"
        await pilot.press("ctrl+n")
        assert screen.transcript.text == "" and not screen.session.exchanges


async def test_a_question_from_a_file_stays_what_it_was(home, chat_model, tmp_path):
    chat_model.words = [" A", " cow."]
    file = tmp_path / "q.txt"
    file.write_text("What does a cow say?")
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+t")
        screen.prompt.text = f"FILE:{file}"
        await pilot.press("enter")
        await until_true(lambda: len(chat_model.prompts) == 1 and not screen.session.writing)
        file.unlink()
        await pilot.press("ctrl+r")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        assert not screen.session.exchanges[0].problem and chat_model.prompts[1][0] == chat_model.prompts[0][0]
        screen.prompt.text = "And a pig?"
        await pilot.press("enter")
        await until_true(lambda: len(chat_model.prompts) == 3 and not screen.session.writing)
        assert chat_model.prompts[2][0].startswith("Question: What does a cow say?\nAnswer: A cow.")
        kept = load(screen.session.conversation.file).exchanges[1]
        assert (kept.prompt, kept.file_text) == (f"FILE:{file}", "What does a cow say?")


async def test_at_the_end_the_figures_come_before_the_hints(home, chat_model):
    chat_model.in_training = True
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        said = text_of(screen, "#chat-status")
        assert said.index("tokens/s") < said.index("first token") < said.index("ctrl+g") < said.index("K: save")


async def test_questions_and_answers(home, chat_model):
    chat_model.words = [" A", " cat."]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+t")
        assert screen.session.chat_mode and "chat" in text_of(screen, "#model-facts")
        for question in ("Who?", "Why?"):
            await pilot.press(*question, "enter")
            await until_true(lambda: not screen.session.writing)
        assert chat_model.prompts[1][0] == "Question: Who?\nAnswer: A cat.\n\nQuestion: Why?\nAnswer:"
        assert screen.transcript.text == "you    Who?\nmodel  A cat.\n\nyou    Why?\nmodel  A cat."


async def test_a_model_trained_on_conversations_chats_from_the_start(home, chat_model):
    chat_model.is_tuned = True
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        assert screen.session.chat_mode and "chat" in text_of(screen, "#model-facts")


async def test_hostile_text_and_a_faithful_copy(home, chat_model):
    hostile = "\x1b]0;evil\x07[bold]x[/bold]\u202e"
    chat_model.words = [hostile]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        shown = "".join(screen.transcript.render_line(y).text for y in range(3))
        assert "␛]0;evil␇[bold]x[/bold]\ufffd" in shown
        await pilot.press("escape", "y")
        assert pilot.app.clipboard == hostile


async def test_a_long_reply_stays_where_it_was_scrolled_to(home, chat_model):
    chat_model.words = [f"line {number}\n" for number in range(80)]
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        await until_true(lambda: screen.transcript.is_vertical_scroll_end)
        screen.transcript.scroll_to(y=5, animate=False, immediate=True)
        screen.transcript.write("more\n" * 5)
        await pilot.pause()
        assert screen.transcript.scroll_offset.y == 5


async def test_a_trained_model_is_chosen_and_chatted_with(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        await until_true(lambda: screen.session.model is not None, "the newest run opened by itself")
        assert "tiny-1@20" in text_of(screen, "#model-facts")
        await pilot.press("ctrl+o")
        await until_true(lambda: isinstance(app.screen, ChooseModel) and app.screen.entries)
        await pilot.press(*"@10", "enter")
        await until_true(lambda: screen.session.model is not None and screen.session.model.name == "tiny-1@10")
        await pilot.press(*"Ada", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        first = screen.session.exchanges[0].reply
        assert len(first) > 20 and "\x1b" not in first
        await pilot.press(*"Ada", "enter")
        await until_true(lambda: len(screen.session.exchanges) == 2 and not screen.session.writing)
        assert screen.session.exchanges[1].reply == first, "same checkpoint, prompt, parameters and seed"
        await pilot.press("ctrl+t")
        assert not screen.session.chat_mode and "plain text" in text_of(screen, "#chat-status")


async def test_a_reference_that_does_not_exist(home):
    async with ChatApp(home).run_test(size=(120, 24)) as pilot:
        pilot.app.screen.open_reference("nothing@best")
        await until_true(lambda: "there is no run named nothing" in text_of(pilot.app.screen, "#model-facts"))


async def test_tiny_terminal(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for size in ((1, 1), (20, 6), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.press("x", "enter")
            await until_true(lambda: not screen.session.writing)


async def test_a_reply_that_is_being_written_is_kept_when_the_program_ends(home, chat_model):
    chat_model.gate, chat_model.words = threading.Semaphore(2), ["w "] * 50
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: "w " in screen.transcript.text)
    chat_model.gate.release(50)
    (file,) = (home / "transcripts").iterdir()
    kept = load(file).exchanges[1]
    assert (kept.prompt, kept.reason, kept.model) == ("x", "cancelled", "fake@1") and kept.reply.startswith("w ")


async def test_prompts_of_earlier_days_come_back(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for prompt in ("a", "b"):
            await pilot.press(prompt, "enter")
            await until_true(lambda: screen.session.exchanges and not screen.prompt.text and not screen.session.writing)
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await until_true(lambda: screen.prompt.prompts == ["a", "b"])
        await pilot.press("up", "up")
        assert screen.prompt.text == "a"


async def test_what_went_wrong_stays_with_its_prompt(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"FILE:gone.txt", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        await pilot.press("escape", "p")
        assert "gone.txt" in screen.transcript.text.splitlines()[-1]
        assert load(screen.session.conversation.file).exchanges[1].problem in screen.transcript.text
        assert "m" not in screen.active_bindings, "there is no token to look at"


async def test_a_dialog_closed_while_loading(home, chat_model, monkeypatch):
    read = threading.Event()
    monkeypatch.setattr(past_module, "list_conversations", lambda home: read.wait(20) and [])
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("f3", "escape")
        await until_true(lambda: pilot.app.screen is screen)
        read.set()
        await pilot.pause(0.2)
        assert pilot.app.is_running and pilot.app.screen is screen


async def test_a_system_prompt_is_sent_with_every_question_and_shown_once(home, chat_model):
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("ctrl+t", "f12")
        await until_true(lambda: isinstance(pilot.app.screen, AskText))
        await pilot.press(*"Be brief.", "enter")
        await until_true(lambda: "from the next question on" in text_of(screen, "#chat-status"))
        for question in ("Who?", "Where?"):
            count = len(screen.session.exchanges) + 1
            await pilot.press(*question, "enter")
            await until_true(lambda count=count: len(screen.session.exchanges) == count and not screen.session.writing)
        assert [prompt.startswith("Question: Be brief.\n\nWho?") for prompt, _ in chat_model.prompts] == [True, True]
        assert screen.transcript.text.count("system Be brief.") == 1
        past = load(screen.session.conversation.file)
        assert past.system == "Be brief." == past.exchanges[1].system
        await pilot.press("f12")
        await until_true(lambda: isinstance(pilot.app.screen, AskText))
        await pilot.press(*["backspace"] * 9, "enter")
        await until_true(lambda: "No system prompt" in text_of(screen, "#chat-status"))
        await pilot.press(*"Why?", "enter")
        await until_true(lambda: len(screen.session.exchanges) == 3 and not screen.session.writing)
        assert "system (none)" in screen.transcript.text and "Be brief." not in chat_model.prompts[-1][0]


async def test_a_checkpoint_that_was_skipped_is_reported(home, chat_model):
    chat_model.warnings = ("skipping checkpoint 20: its manifest.json is damaged",)
    async with ChatApp(home).run_test(size=(120, 24)) as pilot:
        pilot.app.screen.open_reference("fake")
        await until_true(lambda: "skipping checkpoint 20" in text_of(pilot.app.screen, "#chat-status"))
