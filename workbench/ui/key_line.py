"""The line at the bottom of a screen: the keys that work now, as many as fit, and the key for help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

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


class KeyLine(Footer):
    """Textual's footer with whole keys only."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)

    def compose(self) -> ComposeResult:
        if self._bindings_ready:
            for hint in fitting(hints(self.screen), self.app.size.width):
                # Not bound to the footer's `compact` as in Textual: a binding holds its widget until the value changes.
                yield FooterKey(hint.key, hint.shown, hint.text, hint.action, disabled=not hint.enabled)

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self.recompose)
