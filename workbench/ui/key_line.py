"""The line at the bottom of a screen: the keys that work now, as many as fit, and the key for help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget

LAST = ("help", "app.help")
"""The action that is always shown, at the end."""


@dataclass(frozen=True)
class Hint:
    """One key of the line, or a group of keys; a click on it presses `key`."""

    key: str
    shown: str
    text: str
    action: str
    enabled: bool

    @property
    def width(self) -> int:
        return cell_len(self.shown) + 1 + cell_len(self.text) + 1


def hints(screen: Screen[Any]) -> list[Hint]:
    """The keys to show, those of the focused widget first; of several keys for one action, the first."""
    found: dict[str, Hint] = {}
    seen: set[str] = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.show or binding.action in seen:
            continue
        seen.add(binding.action)
        group = binding.group.description if binding.group is not None else ""
        shown = screen.app.get_key_display(binding)
        before = found.get(group or binding.action)
        if before is None:
            hint = Hint(binding.key, shown, group or binding.description, binding.action, active.enabled)
            found[group or binding.action] = hint
        elif group:
            found[group] = replace(before, shown=f"{before.shown} {shown}")
    return list(found.values())


def fitting(found: Sequence[Hint], width: int) -> list[Hint]:
    """As many hints as fit into `width` cells; always with help."""
    helps = [hint for hint in found if hint.action in LAST][:1]
    left = width - sum(hint.width for hint in helps)
    chosen = []
    for hint in found:
        if hint.action in LAST:
            continue
        left -= hint.width
        if left < 0:
            break
        chosen.append(hint)
    return chosen + helps


class KeyLine(Widget):
    """Textual's `Footer` with whole keys only, as one widget that draws all keys.

    The footer mounts a widget per key, and mounts all again whenever a binding may have changed: 40 % of the processor
    time in which the Runs and Chat screens open (measured).
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "key-line--key",
        "key-line--text",
        "key-line--disabled",
        "key-line--hovered",
    }
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        text-wrap: nowrap;
        color: $footer-foreground;
        background: $footer-background;
        .key-line--key {
            color: $footer-key-foreground;
            background: $footer-key-background;
            text-style: bold;
        }
        .key-line--text {
            color: $footer-description-foreground;
            background: $footer-description-background;
        }
        .key-line--disabled {
            text-style: dim;
        }
        .key-line--hovered {
            color: $footer-key-foreground;
            background: $block-hover-background;
        }
    }
    """

    hints: reactive[tuple[Hint, ...]] = reactive(())
    hovered: reactive[Hint | None] = reactive(None)

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self.bindings_changed)

    def on_unmount(self) -> None:
        self.screen.bindings_updated_signal.unsubscribe(self)

    def bindings_changed(self, screen: Screen[Any]) -> None:
        if screen.app.app_focus and self.is_attached and screen is self.screen:
            self.call_after_refresh(self.read_hints)

    def on_resize(self) -> None:
        self.call_after_refresh(self.read_hints)  # some keys work only in a narrow or a wide terminal

    def read_hints(self) -> None:
        """Take over the keys that work now."""
        if self.is_attached:
            self.hints = tuple(hints(self.screen))

    def render(self) -> Text:
        styles = {name: self.get_component_rich_style(name, partial=True) for name in self.COMPONENT_CLASSES}
        line = Text(no_wrap=True, end="")
        for hint in fitting(self.hints, self.size.width):
            key, text = styles["key-line--key"], styles["key-line--text"]
            if hint == self.hovered:
                key, text = key + styles["key-line--hovered"], styles["key-line--hovered"]
            if not hint.enabled:
                key, text = key + styles["key-line--disabled"], text + styles["key-line--disabled"]
            line.append(" " if line else "")
            line.append(hint.shown, key)
            line.append(f" {hint.text}", text)
        return line

    def hint_at(self, column: int) -> Hint | None:
        """The key drawn at a column; None on the spaces between keys."""
        start = 0
        for hint in fitting(self.hints, self.size.width):
            if start <= column < start + hint.width - 1:
                return hint
            start += hint.width
        return None

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self.hovered = self.hint_at(event.x)
        self.styles.pointer = "pointer" if self.hovered else "default"

    def on_leave(self) -> None:
        self.hovered = None

    def on_mouse_down(self, event: events.MouseDown) -> None:
        hint = self.hint_at(event.x)
        if hint is None:
            return
        if hint.enabled:
            self.app.simulate_key(hint.key)
        else:
            self.app.bell()
