"""Branches, transcripts and replays on the Chat screen."""

from __future__ import annotations

import json
import shutil
import threading

import pytest

from llm.config import DecodeConfig
from llm.engine import Piece
from llm.errors import UserError
from llm.run import Run
from tests.workbench.chat.chat_for_tests import ChatApp, FakeModel, NoTraining, Trainer, elsewhere, opened, text_of
from tests.workbench.waiting import until_true
from workbench.chat.conversation import Exchange
from workbench.chat.model import open_model
from workbench.chat.model_choices import list_models
from workbench.chat.replay import replay, save_step
from workbench.chat.transcripts import load
from workbench.chat.transcripts_dialog import PastConversations


async def say(pilot, screen, text):
    screen.prompt.focus()
    await pilot.press(*text, "enter")
    await until_true(lambda: not screen.prompt.text and not screen.session.writing and screen.session.exchanges)


def status(screen):
    return text_of(screen, "#chat-status")


async def test_editing_an_earlier_prompt_makes_a_branch(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        await say(pilot, screen, "b")
        await pilot.press("escape", "p", "p")
        assert screen.transcript.picked.prompt == "a" and "▸ a" in screen.transcript.text
        await pilot.press("e")
        await until_true(lambda: screen.prompt.has_focus and screen.prompt.text == "a")
        await pilot.press("x", "enter")
        await until_true(lambda: len(chat_model.prompts) == 3 and not screen.session.writing)
        assert screen.transcript.text == "2/2 axone two three"
        await pilot.press("escape", "left")
        await until_true(lambda: "1/2 a" in screen.transcript.text)
        assert screen.transcript.text.endswith("bone two three"), "what followed the first is there again"
        assert "branch 1 of 2" in status(screen)
        await pilot.press("p", "b")
        await say(pilot, screen, "c")
        assert [one.prompt for one in screen.session.exchanges] == ["a", "c"]


async def test_escape_cancels_editing(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        await pilot.press(*"draft", "escape", "e")
        await until_true(lambda: screen.prompt.text == "a")
        await pilot.press("escape")
        assert screen.sender.editing is None and screen.prompt.text == "draft", "what was being typed is there again"
        await pilot.press("escape", "e")
        await until_true(lambda: screen.prompt.text == "a")
        await pilot.press("x", "enter")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        assert screen.prompt.text == "draft" and screen.session.exchanges[0].prompt == "ax"
        screen.session.conversation.switch_to(screen.session.conversation.exchanges[1])
        screen.prompt.text = ""
        await say(pilot, screen, "b")
        assert [one.prompt for one in screen.session.exchanges] == ["a", "b"]


async def test_tokens_of_another_run_are_not_continued(home, chat_model, monkeypatch):
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        screen.session.exchanges[0].given, screen.session.exchanges[0].model = 1, "other-1@20"
        monkeypatch.setattr(pilot.app, "push_screen_wait", lambda window: chosen())
        screen.action_microscope()
        await until_true(lambda: "other-1@20 generated this" in status(screen))
        assert len(chat_model.prompts) == 1
        await pilot.press("ctrl+r")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        assert chat_model.given == () and chat_model.prompts[1][0] == "a", "from the prompt, without the other's tokens"


async def chosen():
    return 0, 1


async def test_a_conversation_is_saved_found_and_continued(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "moon ")
        file = screen.session.conversation.file
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert lines[1]["model"] == "fake@1" and lines[1]["tokens"] == [0, 1, 2] and lines[1]["knobs"]["seed"] == 1
        await pilot.press("ctrl+n")
        await say(pilot, screen, "sun ")
        assert screen.session.conversation.file != file
        await pilot.press("f3")
        await until_true(
            lambda: isinstance(pilot.app.screen, PastConversations) and pilot.app.screen.entries is not None
        )
        assert len(pilot.app.screen.shown) == 2
        await pilot.press(*"moon")
        await until_true(lambda: len(pilot.app.screen.shown) == 1)
        await pilot.press("enter")
        await until_true(lambda: pilot.app.screen is screen and screen.session.conversation.file == file)
        assert screen.transcript.text == "moon one two three"
        await say(pilot, screen, "on ")
        assert len(load(file).exchanges) == 2


async def test_an_export(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        await pilot.press("f7")
        await until_true(lambda: "Exported to " in status(screen))
        assert len(list((home / "exports").iterdir())) == 2


async def test_a_reply_of_a_trained_model_is_replayed_exactly(trained_run, monkeypatch):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        await until_true(lambda: screen.session.model is not None)
        await say(pilot, screen, "Ada ")
        exchange = screen.session.exchanges[0]
        manifest = json.loads((trained_run.path / "checkpoints/step-00000020/manifest.json").read_text())
        assert exchange.sha256 == manifest["files"]["model.safetensors"]["sha256"] and exchange.model == "tiny-1@20"
        screen.open_reference("tiny-1@10")
        await until_true(lambda: screen.session.model is not None)
        await pilot.press("escape", "R")
        await until_true(lambda: "Replay" in status(screen) and "…" not in status(screen))
        assert f"Replay: all {len(exchange.tokens)} tokens are identical" in status(screen)
        exchange.tokens[4] += 1
        await pilot.press("R")
        await until_true(lambda: "differs from token 5" in status(screen))
        exchange.sha256 = "0" * 64
        await pilot.press("R")
        await until_true(lambda: "no longer has the weights" in status(screen))
        exchange.model, exchange.sha256 = "tiny-1@13", ""
        await pilot.press("R")
        await until_true(lambda: "no checkpoint 13" in status(screen))


async def test_which_steps_can_be_saved(trained_run, home, chat_model):
    chat_model.in_training = True
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        assert screen.session.exchanges[0].live and "K: save these weights" in status(screen)
        await pilot.press("escape", "K")
        await until_true(lambda: "no run named fake" in status(screen))


async def test_dropped_turns_are_shown_and_recorded(home, chat_model):
    chat_model.words, chat_model.context = [" A", " cat."], 90
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        screen.panel.set_value("max_tokens", 10)
        await pilot.press("ctrl+t")
        for question in ("Who?", "Why?", "How?", "Now?"):
            await say(pilot, screen, question)
        assert "turns dropped" in status(screen)
        assert (
            load(screen.session.conversation.file).exchanges[4].dropped_turns
            == screen.session.exchanges[3].dropped_turns
            > 0
        )


async def test_a_replay_can_be_stopped(home, chat_model):
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        await say(pilot, screen, "a")
        chat_model.gate = threading.Semaphore(1)
        await pilot.press("escape", "R")
        await until_true(lambda: screen.session.service.is_busy and len(chat_model.prompts) == 2)
        await pilot.press("escape")
        chat_model.gate.release(9)
        await until_true(lambda: "Replay stopped" in status(screen))


def test_a_step_that_is_a_checkpoint_is_pinned(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    assert save_step(tmp_path, "tiny-1@10", None).text == "tiny-1@10 is a checkpoint; it is now pinned."
    assert Run.open(tmp_path, "tiny-1").meta()["pins"] == [10]
    with pytest.raises(UserError, match="newer weights"):
        save_step(tmp_path, "tiny-1@11", None)


def test_saved_weights_of_a_live_reply_replay_it(trained_run, tmp_path, monkeypatch):
    """A trainer in another process, whose weights no checkpoint holds: its snapshot is of step 10, renamed to 13."""
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    run = Run.open(tmp_path, "tiny-1")
    elsewhere(monkeypatch)
    Trainer(run).start()
    live = open_model(tmp_path, NoTraining(), "tiny-1@live", lambda: False)
    live.step = 13
    reply = Exchange(1, 0, "text", "Ada ", context="Ada ", params=DecodeConfig(max_tokens=20))
    for piece in live.stream("Ada ", reply.params, cancel=lambda: False, params_source=lambda: reply.params):
        if isinstance(piece, Piece):
            reply.tokens.append(piece.token_id)
            reply.reply += piece.text
    assert save_step(tmp_path, "tiny-1@13", live).text.startswith("tiny-1@13 is saved")
    assert [info.step for info in run.kept()] == [13] and [info.step for info in run.checkpoints()] == [10, 20]
    assert "tiny-1@13" in [choice.reference for choice in list_models(tmp_path)]
    kept = open_model(tmp_path, NoTraining(), "tiny-1@13", lambda: False)
    reply.device = kept.device
    assert replay(reply, kept, lambda: False).text == "Replay: all 20 tokens are identical."
    assert run.checkpoint("last").step == 20, "training does not continue from what a chat saved"


def test_a_disk_that_is_full(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    full = FakeModel()
    full.name = "tiny-1@13"
    with pytest.raises(UserError, match="No space left"):
        save_step(tmp_path, "tiny-1@13", full)
