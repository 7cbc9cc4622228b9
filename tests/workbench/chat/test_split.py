"""Split and time-lapse from the Chat screen, on a trained run."""

from __future__ import annotations

import shutil
from dataclasses import replace

from textual.widgets import Static

from llm.run import Run
from tests.workbench.chat.chat_for_tests import ChatApp, text_of
from tests.workbench.waiting import until_true
from workbench.charts.chart import Chart
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.replay import recorded_params
from workbench.chat.split_screen import Split
from workbench.chat.timelapse_screen import TimeLapse
from workbench.chat.transcript_view import Transcript


async def ask(pilot, text="Ada "):
    screen = pilot.app.screen
    await until_true(lambda: screen.session.model is not None)
    await pilot.press(*text, "enter")
    await until_true(lambda: screen.session.exchanges and not screen.session.writing)
    return screen


def facts(screen, selector):
    """What a line says; nothing while the screen is still being made."""
    return "".join(str(line.render()) for line in screen.query(selector).results(Static))


async def test_two_checkpoints_side_by_side(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot)
        await pilot.press("f5")
        await until_true(lambda: isinstance(app.screen, ChooseModel) and app.screen.entries)
        await pilot.press(*"@10", "enter")
        await until_true(lambda: isinstance(app.screen, Split) and app.screen.done is not None)
        split = app.screen
        found = split.done.comparison
        assert found.sides[0].text == screen.session.exchanges[0].reply, "the same parameters and seed"
        texts = [split.query_one(f"#split-text-{side}", Transcript).text for side in (0, 1)]
        assert texts == ["Ada " + side.text for side in found.sides]
        assert f"first difference at token {found.first_token + 1}" in facts(split, "#split-facts")
        assert facts(split, "#split-name-1") == "tiny-1@10"
        await pilot.press("d")
        await until_true(lambda: f"token {found.first_token + 1}:" in facts(split, "#split-token-1"))
        assert "KL " in facts(split, "#split-token-0")
        await pilot.press("right")
        await until_true(lambda: f"token {found.first_token + 2}:" in facts(split, "#split-token-0"))
        await pilot.press("escape")
        await until_true(lambda: app.screen is screen)


async def test_the_left_side_repeats_chosen_tokens_and_parameter_changes(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(100, 24)) as pilot:
        screen = await ask(pilot)
        first, chat_model = screen.session.exchanges[0], screen.session.service.chat_model
        given, hot = [*first.tokens[:2], first.tokens[5]], replace(first.params, temperature=3.0)
        second = replace(first, tokens=given, given=3, changes=((4, hot),))
        source = recorded_params(second)
        pieces = list(chat_model.stream("Ada ", first.params, cancel=lambda: False, params_source=source, given=given))[
            :-1
        ]
        second.tokens = given + [piece.token_id for piece in pieces]
        second.reply = chat_model.text_of(given) + "".join(piece.text for piece in pieces)
        app.push_screen(Split(screen.session.service, second, "tiny-1@10"))
        await until_true(lambda: isinstance(app.screen, Split) and app.screen.done is not None)
        text = app.screen.query_one("#split-text-0", Transcript).text
        assert text == "Ada " + second.reply
        assert list(app.screen.done.comparison.sides[0].tokens) == second.tokens[3:]


async def test_a_split_with_a_model_that_is_not_there(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot)
        app.push_screen(Split(screen.session.service, screen.session.exchanges[0], "tiny-1@13"))
        await until_true(
            lambda: isinstance(app.screen, Split) and "no checkpoint 13" in facts(app.screen, "#split-facts")
        )


async def test_scrubbing_through_the_checkpoints(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    app = ChatApp(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot, "Chen ")
        await pilot.press("escape", "P")
        await until_true(lambda: "pinned" in text_of(screen, "#chat-status"))
        assert Run.open(tmp_path, "tiny-1").meta()["prompts"] == ["Chen "]
        await pilot.press("escape", *"Ada ", "enter")
        await until_true(lambda: len(screen.session.exchanges) == 2 and not screen.session.writing)
        await pilot.press("f6")
        await until_true(lambda: isinstance(app.screen, TimeLapse) and app.screen.ended)
        lapse = app.screen
        assert lapse.prompts == ["Ada ", "Chen "]
        assert "tiny-1@10 · checkpoint 1 of 2 · validation loss" in facts(lapse, "#lapse-facts")
        first = lapse.query_one(Transcript).text
        await pilot.press("right")
        await until_true(lambda: "tiny-1@20" in facts(lapse, "#lapse-facts"))
        assert lapse.query_one(Transcript).text == "Ada " + screen.session.exchanges[1].reply != first
        chart = lapse.query_one(Chart)
        assert chart.cursor == 20 and len(chart.data.series) == 2
        await pilot.press("down")
        await until_true(lambda: "prompt 2 of 2" in facts(lapse, "#lapse-facts"))
        assert lapse.query_one(Transcript).text == "Chen " + screen.session.exchanges[0].reply
        await pilot.press("escape")
        await until_true(lambda: app.screen is screen)


async def test_without_a_checkpoint_the_time_lapse_says_so(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    app = ChatApp(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot)
        shutil.rmtree(tmp_path / "runs" / "tiny-1" / "checkpoints")
        await pilot.press("f6")
        await until_true(
            lambda: isinstance(app.screen, TimeLapse) and "no checkpoint yet" in facts(app.screen, "#lapse-facts")
        )
        await pilot.press("left", "down", "escape")
        await until_true(lambda: app.screen is screen)
