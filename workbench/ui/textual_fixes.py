"""Fixes for Textual 8.2 (seen with 8.2.8), in very narrow terminals and with widgets that are being removed.

Each function wraps a method of Textual, so that it is called only with arguments it can handle. Its docstring names the
cause. `docs/reliability.md` lists these and all other workarounds.
`tests/workbench/ui/test_textual_fixes.py` shows each fault without its fix; remove a fix once its test fails.
"""

from __future__ import annotations

from functools import lru_cache, partial, wraps
from typing import Any

from textual._context import visible_screen_stack
from textual._styles_cache import StylesCache
from textual.color import Color
from textual.content import Content
from textual.events import Resize
from textual.screen import Screen
from textual.widget import Widget

from workbench.widths import count_spacing_marks


def apply_fixes() -> None:
    """Replace the methods, once."""
    count_spacing_marks()
    for owner, name, fix in (
        (Content, "_wrap_and_format", wrap_in_one_cell),
        (Screen, "get_widget_and_offset_at", skip_removed_widgets),
        (Screen, "_on_resize", skip_old_sizes),
        (Screen, "render", draw_on_screen_below),
    ):
        method = getattr(owner, name)
        if not hasattr(method, "__wrapped__"):
            setattr(owner, name, fix(method))
    if hasattr(StylesCache.get_inner_outer, "cache_info"):
        setattr(StylesCache, "get_inner_outer", cache_by_colors(StylesCache.get_inner_outer))  # noqa: B010


def cache_by_colors(get_inner_outer: Any) -> Any:
    """Cache the styles of a background by its colors alone. Textual caches them by the instance, too, and so keeps the
    rendered lines of the last 1,024 removed widgets in memory."""
    styles_of = lru_cache(1024)(partial(get_inner_outer.__wrapped__, None))

    def fixed(cache: StylesCache, base_background: Color, background: Color) -> Any:
        return styles_of(base_background, background)

    return fixed


def wrap_in_one_cell(wrap_and_format: Any) -> Any:
    """Wrap text to at least one cell: for a width of 0, `range` is called with a step of 0 and raises."""

    @wraps(wrap_and_format)
    def fixed(content: Content, width: int, *arguments: Any, **options: Any) -> Any:
        least = 1 + 2 * int(options.get("line_pad", 0))
        return wrap_and_format(content, max(width, least), *arguments, **options)

    return fixed


def skip_old_sizes(on_resize: Any) -> Any:
    """Ignore all but the current size of the terminal. Each layout makes Textual send its size again, so with two sizes
    in the queue a screen would alternate between them forever."""

    @wraps(on_resize)
    async def fixed(screen: Screen[Any], event: Resize) -> None:
        if event.size == screen.app.size:
            await on_resize(screen, event)
        else:
            event.stop()
            event.prevent_default()

    return fixed


def skip_removed_widgets(get_widget_and_offset_at: Any) -> Any:
    """Ignore clicks on a widget that was removed but is still drawn: Textual would use its missing parent."""

    @wraps(get_widget_and_offset_at)
    def fixed(screen: Screen[Any], x: int, y: int) -> Any:
        widget: Widget | None
        widget, offset = get_widget_and_offset_at(screen, x, y)
        if widget is None or widget is screen or widget.parent is not None:
            return widget, offset
        return None, None

    return fixed


def draw_on_screen_below(render: Any) -> Any:
    """Draw a translucent screen on the one below it. Textual takes the background from a list from which each screen in
    turn removes the last, so when only some screens are drawn again, two can become the background of each other, and
    drawing them never ends."""

    @wraps(render)
    def fixed(screen: Screen[Any]) -> Any:
        stack = screen.app.screen_stack
        visible_screen_stack.set(stack[: stack.index(screen)][-1:] if screen in stack else [])
        return render(screen)

    return fixed
