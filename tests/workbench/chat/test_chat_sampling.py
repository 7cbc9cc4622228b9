"""Sampling parameters on the Chat screen: typed, checked, applied to a reply in progress, and shown in their order."""

from __future__ import annotations

import threading

from textual.widgets import Input

import workbench.chat.sampling_panel as panel_module
from llm.config import DecodeConfig, parse_value
from llm.engine import Done, Piece
from tests.workbench.chat.chat_for_tests import ChatApp, opened, text_of
from tests.workbench.waiting import until_true
from workbench.chat.sampling_panel import ParameterRow, format_value, parameter_fields


async def test_parameters_are_checked_and_applied_as_typed(home, chat_model):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert screen.panel.params.temperature == 0.5, "the run's own value"
        await pilot.press("f2")
        field = screen.query_one("#param-temperature Input", Input)
        await until_true(lambda: field.has_focus)
        field.value = "1.5"
        await until_true(lambda: screen.session.service.params.temperature == 1.5)
        row = screen.query_one("#param-temperature", ParameterRow)
        assert row.has_class("changed")
        field.value = "hot"
        await until_true(lambda: row.has_class("wrong"))
        assert screen.session.service.params.temperature == 1.5
        assert "must be" in text_of(screen, "#sampling-help")
        await pilot.press("ctrl+l")
        await until_true(lambda: screen.session.service.params.temperature == 0.5)
        assert not row.has_class("wrong") and not row.has_class("changed")
        await pilot.press("down")
        await until_true(lambda: screen.query_one("#param-top-k Input", Input).has_focus)
        await pilot.press("f2")
        await until_true(lambda: screen.prompt.has_focus)


async def test_what_was_set_by_hand_stays_when_the_model_changes(home, chat_model):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.query_one("#param-top-k Input", Input).value = "7"
        await until_true(lambda: screen.panel.params.top_k == 7)
        chat_model.decode = type(chat_model.decode)(temperature=0.9)
        screen.open_reference("fake-2")
        await until_true(lambda: screen.session.model is not None)
        assert (screen.panel.params.temperature, screen.panel.params.top_k) == (0.9, 7)


async def test_the_last_seed_is_followed_by_the_first(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: len(chat_model.prompts) == 1 and not screen.session.writing)
        screen.panel.set_value("seed", 2**63 - 1)
        await pilot.press("ctrl+r")
        await until_true(lambda: len(chat_model.prompts) == 2 and not screen.session.writing)
        assert [params.seed for _, params in chat_model.prompts] == [1, 0]


async def test_incomplete_input_does_not_reach_the_reply(home, chat_model, monkeypatch):
    monkeypatch.setattr(panel_module, "DEBOUNCE_SECONDS", 3600.0)
    chat_model.words, chat_model.gate = ["w "] * 99, threading.Semaphore(0)
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: screen.session.writing)
        field = screen.panel.query_one("#param-max-tokens Input", Input)
        field.focus()
        field.value = "90"
        await until_true(lambda: screen.panel.params.max_tokens == 90)
        assert screen.session.service.params.max_tokens == 200, "more may be typed"
        await pilot.press("enter")
        await until_true(lambda: screen.session.service.params.max_tokens == 90)
        monkeypatch.setattr(panel_module, "DEBOUNCE_SECONDS", 0.05)
        field.value = "900"
        await until_true(lambda: screen.session.service.params.max_tokens == 900)
        chat_model.gate.release(200)
        await until_true(lambda: not screen.session.writing)
        field.value = "90"
        await pilot.pause()
        assert screen.session.service.params.max_tokens == 90, "at once, where nothing is written"


async def test_invalid_parameters_are_reported_and_the_reply_continues(home, chat_model):
    chat_model.words, chat_model.gate = ["w "] * 9, threading.Semaphore(1)
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("x", "enter")
        await until_true(lambda: "w " in screen.transcript.text)
        screen.session.service.params = DecodeConfig(order=("t",))
        chat_model.gate.release(2)
        await until_true(lambda: "not a logits processor" in text_of(screen, "#chat-status"))
        chat_model.gate.release(20)
        await until_true(lambda: not screen.session.writing)
        assert screen.session.exchanges[0].reply == "w " * 9 and not screen.session.exchanges[0].changes


def test_lists_are_written_as_they_are_read():
    for field in parameter_fields():
        for value in (field.default, *((("a", 'b,"c'), ("\n", "x y")) if field.type is tuple else ())):
            assert parse_value(field, format_value(value)) == value


async def test_the_order_of_processors_is_shown_and_checked(home, chat_model):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        screen.panel.set_all(DecodeConfig(temperature=0.5, top_k=5, repetition_penalty=1.1))
        await until_true(lambda: "top k" in text_of(screen, "#sampling-order"))
        assert text_of(screen, "#sampling-order") == "logits → repetition penalty → temperature → top k → sample"
        screen.panel.set_value("order", ("top_k",))
        assert text_of(screen, "#sampling-order") == "logits → top k → repetition penalty → temperature → sample"
        screen.panel.set_value("order", ("topk",))
        assert "'topk' is not a logits processor" in text_of(screen, "#sampling-order")


async def test_all_parameters_are_shown_if_there_is_room(home, chat_model):
    async with ChatApp(home).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert len(screen.panel.query(ParameterRow)) == 8 and "all parameters" in text_of(screen, "#sampling-help")
        await pilot.resize_terminal(200, 60)
        await until_true(lambda: len(screen.panel.query(ParameterRow)) == len(parameter_fields()))
        await until_true(lambda: screen.panel.query(ParameterRow).last().region.height == 1)
        tops = [row.region.y for row in screen.panel.query(ParameterRow)]
        assert tops == list(range(tops[0], tops[0] + len(tops))), "a line each"
        assert screen.prompt.has_focus


async def test_the_best_of_several_replies_is_shown_and_the_others_are_one_key_away(home, chat_model, monkeypatch):
    def stream(prompt, params, *, cancel, params_source, given=()):
        yield Piece(0, None, "", context_used=5)
        for sample, word in enumerate(("best", "second", "third")):
            yield Piece(sample, sample, word, context_used=6)
        yield Done(("stop",) * 3, 3, 4, 1.0, 0.1, 20.0, 6, 0, 0)

    monkeypatch.setattr(chat_model, "stream", stream)
    async with ChatApp(home).run_test(size=(100, 24)) as pilot:
        screen = await opened(pilot)
        screen.panel.set_value("best_of", 3)
        await pilot.press(*"Who?", "enter")
        await until_true(lambda: screen.session.exchanges and not screen.session.writing)
        assert "best" in screen.transcript.text and "second" not in screen.transcript.text
        assert "the best of 3" in screen.transcript.text
        await pilot.press("escape", "o")
        assert "reply 2\nsecond" in screen.transcript.text and "third" in screen.transcript.text
        await pilot.press("o")
        assert "second" not in screen.transcript.text
