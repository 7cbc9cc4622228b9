"""The line of keys: which are shown, what a click does, and what it shows when they change."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType

from tests.workbench.waiting import shown, until
from workbench.ui.key_line import Hint, KeyLine, fitting


def hint(shown: str, text: str, action: str) -> Hint:
    return Hint(shown, shown, text, action, True)


class Keys(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "add", "Add"),
        Binding("b", "begin", "Begin"),
        Binding("z", "help", "Help"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.may_begin: bool | None = True

    def compose(self) -> ComposeResult:
        yield KeyLine()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.may_begin if action == "begin" else True

    def action_add(self) -> None:
        self.done.append("add")

    def action_begin(self) -> None:
        self.done.append("begin")


def last_line(app: App[Any]) -> str:
    return shown(app.screen).splitlines()[-1].rstrip()


@pytest.mark.parametrize(("width", "texts"), [(40, ["Add", "Begin", "Help"]), (14, ["Add", "Help"]), (3, ["Help"])])
def test_whole_keys_alone_and_always_help(width: int, texts: list[str]) -> None:
    found = [hint("a", "Add", "add"), hint("z", "Help", "help"), hint("b", "Begin", "begin")]
    assert [each.text for each in fitting(found, width)] == texts


async def test_a_click_presses_the_key_under_it() -> None:
    app = Keys()
    async with app.run_test(size=(40, 5)) as pilot:
        await until(pilot, lambda: last_line(app).startswith("a Add b Begin"))
        await pilot.click(KeyLine, offset=(8, 0))
        await until(pilot, lambda: app.done == ["begin"])
        await pilot.click(KeyLine, offset=(5, 0))  # between two keys
        await pilot.click(KeyLine, offset=(4, 0))
        await until(pilot, lambda: app.done == ["begin", "add"])


async def test_a_key_that_cannot_be_used_now_is_dim_or_gone() -> None:
    app = Keys()
    async with app.run_test(size=(40, 5)) as pilot:
        await until(pilot, lambda: last_line(app).startswith("a Add b Begin"))
        app.may_begin = None
        app.refresh_bindings()
        line = app.screen.query_one(KeyLine)
        await until(pilot, lambda: any(not each.enabled for each in line.hints))
        await pilot.click(KeyLine, offset=(8, 0))
        app.may_begin = False
        app.refresh_bindings()
        await until(pilot, lambda: "Begin" not in last_line(app))
        assert app.done == []


async def test_a_narrow_terminal_shows_fewer_keys() -> None:
    app = Keys()
    async with app.run_test(size=(40, 5)) as pilot:
        await until(pilot, lambda: last_line(app).startswith("a Add b Begin"))
        await pilot.resize_terminal(7, 5)
        await until(pilot, lambda: last_line(app) == "z Help")
