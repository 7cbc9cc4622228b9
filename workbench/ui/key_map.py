"""The keys of all screens by the id of their bindings: what settings.toml may change."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from textual.binding import Binding
from textual.dom import DOMNode

from llm.names import did_you_mean
from workbench.ui.settings import Settings

TOGETHER = {"train", "chart"}  # chart keys work everywhere on the Train screen
ALONE = {"help", "lapse"}  # windows without lists: no other key works there
EVERYWHERE = ("app", "screen", "list")
FEATURES = ("presets", "train", "runs", "chat", "data", "serve", "charts", "ui")
GROUPS = (*EVERYWHERE, "presets", "train", "chart", "runs", "chat", "data")
"""The order of keys in the settings, by the first part of their ids; groups of windows come last."""


def all_bindings() -> dict[str, list[Binding]]:
    """Every binding that has an id, by that id, sorted by group. Bindings of one id are remapped together."""
    found: dict[str, list[Binding]] = {}
    for node in classes_with_keys():
        for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())):
            if binding.id:
                found.setdefault(binding.id, []).append(binding)
    return dict(sorted(found.items(), key=lambda item: group_order(group_of(item[0]))))


def group_of(identity: str) -> str:
    return identity.partition(".")[0]


def group_order(group: str) -> tuple[int, str]:
    return (GROUPS.index(group), "") if group in GROUPS else (len(GROUPS), group)


def classes_with_keys() -> Iterator[type[DOMNode]]:
    """The app, and all widgets and screens, whether they have been opened yet or not."""
    for feature in FEATURES:
        package = importlib.import_module(f"workbench.{feature}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)  # a class is found below only if its module is loaded
    queue: list[type[DOMNode]] = [DOMNode]
    found: set[type[DOMNode]] = set()
    while queue:
        node = queue.pop(0)
        queue += node.__subclasses__()
        if node.__module__.startswith("workbench."):
            found.add(node)
    yield from sorted(found, key=lambda node: (node.__module__, node.__qualname__))


def keys_of(bindings: list[Binding]) -> str:
    """The keys of bindings of one id, as a key map writes them."""
    return ",".join(dict.fromkeys(binding.key for binding in bindings))


def unknown_id(keys: Mapping[str, str]) -> str:
    """What is wrong with the ids of a key map, or "". Loads every screen: call it in a thread."""
    known = all_bindings()
    wrong = next((identity for identity in keys if identity not in known), None)
    if wrong is None:
        return ""
    advice = did_you_mean(wrong, known) or "the settings (in the palette, ctrl+p) list them all."
    return f"settings.toml gives a key to {wrong}, which is no action; {advice}"


def clash(identity: str, key: str, settings: Settings) -> str:
    """The id of another binding that has `key` and works where `identity` works, or ""."""
    group = group_of(identity)
    for other, bindings in all_bindings().items():
        keys = settings.keys.get(other) or keys_of(bindings)
        if other != identity and key in keys.split(",") and work_together(group, group_of(other)):
            return other
    return ""


def work_together(group: str, other: str) -> bool:
    """Whether keys of two groups work at the same time."""
    if group == other or {group, other} == TOGETHER:
        return True
    return bool({group, other}.intersection(EVERYWHERE)) and not {group, other} & ALONE
