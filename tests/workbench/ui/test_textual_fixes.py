"""What Textual gets wrong, and that it does not with the fixes."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path

import pytest
from textual import events
from textual._context import visible_screen_stack
from textual._styles_cache import StylesCache
from textual.content import Content
from textual.geometry import Size
from textual.renderables.background_screen import BackgroundScreen
from textual.widgets import Static

from tests.workbench.opening import app_with
from tests.workbench.waiting import notifications
from workbench.app import WorkbenchApp
from workbench.ui.dialogs import AskText
from workbench.ui.faults import errors_contained
from workbench.ui.textual_fixes import apply_fixes

apply_fixes()


@pytest.fixture
def app(home: Path) -> WorkbenchApp:
    return app_with(home)


@pytest.mark.parametrize("width", [0, 1, 2])
def test_text_is_wrapped_in_no_columns(width: int) -> None:
    assert "".join(line.plain for line in Content("words").wrap(width)) == "words"


async def test_the_lines_of_removed_widgets_are_released(app: WorkbenchApp) -> None:
    def count() -> int:
        gc.collect()
        return sum(type(each) is StylesCache for each in gc.get_objects())

    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.2)
        before = count()
        for number in range(20):
            widget = Static(f"line {number}")
            await app.screen.mount(widget)
            await pilot.pause()
            await widget.remove()
        del widget
        assert count() - before < 5


async def test_a_widget_that_was_removed_but_is_still_drawn_can_be_clicked(app: WorkbenchApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        widget = Static("some words")
        await app.screen.mount(widget, before=0)
        await pilot.pause()
        x, y = widget.region.offset
        with app.batch_update():
            await widget.remove()
            await pilot.mouse_down(offset=(x + 1, y))
            await pilot.hover(offset=(x + 4, y))
            await pilot.mouse_up(offset=(x + 4, y))
    assert notifications(app) == []


async def test_each_window_is_drawn_on_the_screen_below_it_in_any_order(app: WorkbenchApp) -> None:
    """Two windows that are the background of each other are drawn without end."""
    async with app.run_test(size=(80, 24)) as pilot:
        for number in range(3):
            app.push_screen(AskText(f"question {number}"))
            await pilot.pause()
        stack = app.screen_stack
        for place in (1, 3, 2):
            visible_screen_stack.set(stack[:-1])  # as before the top one is drawn
            drawn = stack[place].render()
            assert isinstance(drawn, BackgroundScreen) and drawn.screen is stack[place - 1]


async def test_old_sizes_do_not_keep_a_screen_laying_out(app: WorkbenchApp) -> None:
    """Two sizes in the queue of a screen, with something between them, as a storm of resizes leaves them."""
    async with app.run_test(size=(80, 24)) as pilot:
        screen, laid_out, left = app.screen, [], 200
        screen.screen_layout_refresh_signal.subscribe(screen, lambda shown: laid_out.append(shown.size), immediate=True)

        def between() -> None:
            """What the screen does at every size, as ours do."""
            nonlocal left
            left -= 1
            if left > 0:
                screen.call_later(between)

        for size in (Size(60, 20), Size(80, 24), Size(60, 20), Size(80, 24)):
            screen.post_message(events.Resize(size, size))
            screen.call_later(between)
        await pilot.pause(0.5)
        assert Size(60, 20) not in laid_out
        assert len(laid_out) < 20
        assert screen.size == Size(80, 24)


async def test_the_newest_size_is_taken(app: WorkbenchApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        for width in range(1, 120):
            app.post_message(events.Resize(Size(width, 30), Size(width, 30)))
            if width % 10 == 0:
                await asyncio.sleep(0)
        await pilot.pause(0.3)
        assert app.size == Size(119, 30)
        assert app.screen.size == Size(119, 30)


async def test_an_error_in_a_handler_is_reported_and_the_widget_continues(
    app: WorkbenchApp, capfd: pytest.CaptureFixture[str]
) -> None:
    app.survives_errors = True
    with errors_contained():
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            heard: list[str] = []

            def fail(what: str) -> None:
                heard.append(what)
                raise LookupError(what)

            for what in ("one", "two", "three"):
                app.screen.call_later(fail, what)
                app.screen.call_next(fail, f"{what} next")
            app.set_timer(0.01, lambda: fail("timer"))
            app.run_worker(lambda: fail("worker"), thread=True)
            await pilot.pause(0.3)
            assert {"one", "two", "three", "one next", "timer", "worker"} <= set(heard)
            assert app.is_running
            (message,) = notifications(app)
            assert "Something went wrong here (LookupError)" in message
            await pilot.press("2")
            assert app.current_mode == "train"
    written = capfd.readouterr().err
    assert len(re.findall("^LookupError: ", written, re.MULTILINE)) == 1, "the same error is written once"


async def test_without_that_an_error_ends_a_test(app: WorkbenchApp) -> None:
    def fail() -> None:
        raise LookupError("seen")

    with pytest.raises(LookupError, match="seen"):
        async with app.run_test() as pilot:
            app.screen.call_later(fail)
            await pilot.pause(0.2)
