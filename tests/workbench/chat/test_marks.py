"""Marks on replies: the files they are collected in, and what the screen shows of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llm.config import DecodeConfig
from llm.data.text.conversations import conversation_from_row
from llm.errors import UserError
from llm.run import Run
from tests.workbench.chat.chat_for_tests import ChatApp, opened, text_of
from tests.workbench.chat.test_transcripts import HOSTILE
from tests.workbench.scripted import prepared_trainer
from tests.workbench.waiting import until_true
from workbench.chat.conversation import Conversation, Mark
from workbench.chat.keys import is_possible
from workbench.chat.marks import count_good, read_marks, write_mark
from workbench.train.service import TrainingService
from workbench.ui.dialogs import Ask


def saved_conversation() -> Conversation:
    """Two turns after each other, as a saved transcript."""
    conversation = Conversation()
    conversation.file = Path("20260101-000000-abcdef.jsonl")
    for number, (question, reply) in enumerate([("Who had the ball?", " It was Tom."), (HOSTILE, "Red.\n")]):
        exchange = conversation.add("turn", question, number)
        exchange.reply, exchange.model, exchange.params = reply, "chat-1@30", DecodeConfig(temperature=0.5, seed=7)
    return conversation


def lines(home: Path, name: str) -> list[dict]:
    file = home / "conversations" / name
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def test_a_good_reply_is_a_conversation_with_its_origin(home):
    conversation = saved_conversation()
    write_mark(home, conversation, conversation.exchanges[2], Mark("good"))
    (row,) = lines(home, "good.jsonl")
    assert [(one["role"], one["content"]) for one in row["messages"]] == [
        ("user", "Who had the ball?"), ("assistant", "It was Tom."), ("user", HOSTILE), ("assistant", "Red."),
    ]  # fmt: skip
    assert [message.is_learned for message in conversation_from_row(row)] == [True, False, True, True]
    assert (row["mark"], row["model"], row["prompt"]) == ("good", "chat-1@30", HOSTILE)
    assert (row["sampling"]["temperature"], row["sampling"]["seed"]) == (0.5, 7)
    assert row["id"] == "20260101-000000-abcdef/2" and row["time"] > 0


def test_a_marked_reply_keeps_its_system_prompt(home):
    conversation = saved_conversation()
    conversation.exchanges[2].system = "Be brief."
    write_mark(home, conversation, conversation.exchanges[2], Mark("good"))
    assert lines(home, "good.jsonl")[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_reply_has_one_mark(home):
    conversation = saved_conversation()
    first, second = conversation.exchanges.values()
    write_mark(home, conversation, first, Mark("bad"))
    write_mark(home, conversation, second, Mark("good"))
    write_mark(home, conversation, first, Mark("corrected", "It was Mia."))
    assert [row["id"][-1] for row in lines(home, "good.jsonl")] == ["2", "1"] and not lines(home, "bad.jsonl")
    (pair,) = lines(home, "preferences.jsonl")
    assert (pair["prompt"][-1]["content"], pair["chosen"][0]["content"]) == ("Who had the ball?", "It was Mia.")
    assert pair["rejected"][0]["content"] == "It was Tom." == lines(home, "good.jsonl")[1]["reply"]
    assert read_marks(home, conversation) == {1: Mark("corrected", "It was Mia."), 2: Mark("good")}
    write_mark(home, conversation, first, Mark("bad"))
    assert count_good(home) == 1 and not lines(home, "preferences.jsonl") and len(lines(home, "bad.jsonl")) == 1
    write_mark(home, conversation, first, None)
    assert read_marks(home, conversation) == {2: Mark("good")}


def test_an_empty_reply_can_be_corrected(home):
    """A model that ends its turn at once says nothing: there is nothing to mark, and no rejected answer."""
    conversation = saved_conversation()
    exchange = conversation.exchanges[1]
    exchange.reply, exchange.tokens = "\n", [3]
    assert is_possible("correct", exchange, False) and not is_possible("mark", exchange, False)
    assert not is_possible("correct", exchange, True) and not is_possible("correct", None, False)
    write_mark(home, conversation, exchange, Mark("corrected", "It was Mia."))
    assert lines(home, "good.jsonl")[0]["messages"][-1] == {"role": "assistant", "content": "It was Mia."}
    assert not lines(home, "preferences.jsonl")


def test_lines_of_others_are_left_as_they_are(home):
    conversation = saved_conversation()
    file = home / "conversations" / "good.jsonl"
    file.parent.mkdir(parents=True)
    foreign = b'{"messages": [], "mark": "corrected", "id": 3}\nnot JSON\n[1]\n'
    file.write_bytes(foreign)
    write_mark(home, conversation, conversation.exchanges[1], Mark("good"))
    assert file.read_bytes().startswith(foreign)
    assert read_marks(home, conversation) == {1: Mark("good")} and count_good(home) == 2
    write_mark(home, conversation, conversation.exchanges[1], None)
    assert file.read_bytes() == foreign


def test_a_file_that_cannot_be_written_is_named(home):
    conversation = saved_conversation()
    (home / "conversations").mkdir(parents=True)
    (home / "conversations" / "good.jsonl").mkdir()
    with pytest.raises(UserError, match=r"good\.jsonl cannot be read"):
        write_mark(home, conversation, conversation.exchanges[1], Mark("good"))


async def test_marks_are_shown_and_found_again(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"Once ", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        await pilot.press("escape")
        assert "undo" not in {active.binding.action for active in screen.active_bindings.values() if active.enabled}
        await pilot.press("plus")
        assert screen.transcript.text.endswith("\n✓ good")
        await pilot.press("c")
        assert screen.prompt.text == "one two three" and screen.prompt.has_focus
        await pilot.press("escape")
        assert screen.prompt.text == "" and screen.transcript.has_focus
        await pilot.press("c", *" four", "enter")
        await until_true(lambda: screen.transcript.text.endswith("\n✎ corrected: one two three four"))
        assert count_good(home) == 1 and "conversations" in text_of(screen, "#chat-status")
        await pilot.press("ctrl+n")
        assert screen.transcript.text == ""
        await pilot.press("f3")
        await until_true(lambda: pilot.app.screen is not screen and pilot.app.screen.entries)
        await pilot.press("enter")
        await until_true(lambda: "✎ corrected: one two three four" in screen.transcript.text)


async def test_an_empty_correction_is_refused(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press(*"Once ", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        await pilot.press("escape", "c")
        screen.prompt.text = " "
        await pilot.press("enter")
        assert "cannot be empty" in text_of(screen, "#chat-status") and screen.prompt.has_focus
        assert not screen.session.conversation.marks and len(screen.session.exchanges) == 1


async def test_marked_replies_are_trained_on(trained_run, home):
    shutil.copytree(trained_run.path, home / "runs" / "tiny-1")
    trainer = prepared_trainer()
    app = ChatApp(home, training=TrainingService(home, trainer=trainer))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = app.screen
        await until_true(lambda: screen.session.model is not None)
        screen.panel.set_value("max_tokens", 4)
        for count, prompt in enumerate(("Ada ", "Chen "), 1):
            screen.prompt.focus()
            await pilot.press(*prompt, "enter")
            await until_true(lambda count=count: len(screen.session.exchanges) == count and not screen.session.writing)
            await pilot.press("escape")
            if count == 1:
                await pilot.press("T")
                await until_true(lambda: "at least 2 replies" in text_of(screen, "#chat-status"))
            await pilot.press("c", "a", "enter")
            await until_true(lambda count=count: count_good(home) == count)
        await pilot.press("T")
        await until_true(lambda: isinstance(app.screen, Ask) and "2 marked replies" in app.screen.question)
        await pilot.press("enter")
        await until_true(lambda: (home / "runs" / "tiny-1-sft-1" / "events.jsonl").exists())
        run = Run.open(home, "tiny-1-sft-1")
        assert run.info()["parent"] == "tiny-1@20" and run.config().tune.stage == "sft"
        assert run.config().data.corpus == str(home / "conversations" / "good.jsonl")
