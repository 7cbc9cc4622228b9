"""The keys that work now, for the help and the command palette."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen

MOVING = ("list", "screen")  # groups of bindings that move a cursor or the focus
HERE, SCREEN, EVERYWHERE = "Focused pane", "This screen", "Everywhere"


@dataclass(frozen=True)
class WorkingKey:
    """A key binding that works now: its keys, its description, its action and its node. `is_own`: declared by this
    project, not by Textual. `moves`: it only moves a cursor or the focus."""

    keys: str
    text: str
    action: str
    node: DOMNode
    place: str
    is_own: bool
    moves: bool


def working_keys(screen: Screen[Any]) -> list[WorkingKey]:
    """Every key that works on `screen` now, from the focused widget outwards. Keys of the same action are one entry;
    Textual's own keys come last."""
    found: dict[tuple[str, str], WorkingKey] = {}
    for active in screen.active_bindings.values():
        binding, node = active.binding, active.node
        if not (active.enabled and binding.description):
            continue
        key, identity = screen.app.get_key_display(binding), (place_of(node), binding.description)
        before = found.get(identity)
        if before is None:
            own, moves = is_own(binding, node), (binding.id or "").partition(".")[0] in MOVING
            text = binding.tooltip or binding.description
            found[identity] = WorkingKey(key, text, binding.action, node, place_of(node), own, moves)
        elif key not in before.keys.split():
            found[identity] = replace(before, keys=f"{before.keys} {key}")
    return sorted(found.values(), key=lambda working: (not working.is_own, working.moves))


def is_own(binding: Binding, node: DOMNode) -> bool:
    """Whether a binding of `node` is declared in this project."""
    ours = (kind for kind in type(node).__mro__ if kind.__module__.startswith("workbench."))
    declared = (one for kind in ours for one in Binding.make_bindings(kind.__dict__.get("BINDINGS", ())))
    return bool(binding.id) or any((one.key, one.action) == (binding.key, binding.action) for one in declared)


def place_of(node: DOMNode) -> str:
    """Where a key of `node` works."""
    if isinstance(node, App):
        return EVERYWHERE
    return SCREEN if isinstance(node, Screen) else HERE


def guide_of_focus(screen: Screen[Any], guides: Mapping[str, str]) -> str:
    """The help for the focused widget, or for the nearest one around it. `guides` are texts by widget id."""
    around = screen.focused.ancestors_with_self if screen.focused is not None else []
    return next((guides[node.id] for node in around if node.id is not None and node.id in guides), "")
