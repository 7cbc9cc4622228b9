"""The microscope on a reply of a trained model."""

from __future__ import annotations

from textual.widgets import DataTable, Static

from tests.workbench.chat.chat_for_tests import ChatApp
from tests.workbench.waiting import until_true
from workbench.chat.microscope_screen import Microscope, percent


async def ask(pilot):
    screen = pilot.app.screen
    await until_true(lambda: screen.session.model is not None)
    screen.panel.set_value("temperature", 0.8)
    await pilot.press(*"Ada ", "enter")
    await until_true(lambda: screen.session.exchanges and not screen.session.writing)
    return screen


async def test_every_token_is_explained_and_another_starts_a_branch(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot)
        first = screen.session.exchanges[0]
        await pilot.press("f4")
        await until_true(lambda: isinstance(app.screen, Microscope) and app.screen.explained is not None)
        scope = app.screen
        assert "Token 1 of" in str(scope.query_one("#microscope-head", Static).render())
        await pilot.press("right", "right", "right")
        await until_true(lambda: scope.explained.at == 3)
        table = scope.query_one(DataTable)
        names = [column.label.plain for column in table.columns.values()]
        assert names[:2] == ["token", "model"] and "temperature" in names
        drawn = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        assert drawn == str(first.tokens[3]), "the cursor is on the token that was drawn"
        await pilot.press("end")
        await until_true(lambda: scope.explained.at == len(first.tokens) - 1)
        await pilot.press("home", "right")
        await until_true(lambda: scope.explained.at == 1)
        rows = [key.value for key in table.rows][2:]
        other = next(int(row) for row in rows if int(row) != first.tokens[1])
        table.move_cursor(row=2 + rows.index(str(other)))
        await pilot.press("enter")
        await until_true(
            lambda: app.screen is screen and screen.session.exchanges[-1] is not first and not screen.session.writing
        )
        second = screen.session.exchanges[-1]
        assert second.tokens[:2] == [first.tokens[0], other] and second.given == 2
        assert len(second.tokens) > 2 and screen.session.conversation.position(second) == (2, 2)
        await pilot.press("ctrl+r")
        await until_true(
            lambda: (
                screen.session.conversation.position(screen.session.exchanges[-1])[1] == 3
                and not screen.session.writing
            )
        )
        third = screen.session.exchanges[-1]
        assert third.tokens[:2] == second.tokens[:2] and third.tokens != second.tokens, (
            "another seed, the same beginning"
        )
        await pilot.press("escape", "R")
        await until_true(lambda: "tokens are identical" in str(screen.query_one("#chat-status", Static).render()))


async def test_weights_that_are_gone(trained_run):
    app = ChatApp(trained_run.path.parent.parent)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await ask(pilot)
        screen.session.exchanges[0].model = "tiny-1@13"
        await pilot.press("f4")
        await until_true(lambda: isinstance(app.screen, Microscope))
        scope = app.screen
        await until_true(lambda: scope.query("#microscope-head"))
        await until_true(lambda: "no checkpoint 13" in str(scope.query_one("#microscope-head", Static).render()))
        await pilot.press("right", "enter", "escape")
        await until_true(lambda: app.screen is screen)


def test_percent():
    shown = {1.0: "100.00 %", 0.12345: "12.35 %", 0.0: "0.00 %", 1e-4: "0.01 %", 9.67e-5: "0.0097 %", 3e-7: "<0.0001 %"}
    assert {value: percent(value) for value in shown} == shown
