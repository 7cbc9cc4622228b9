"""Tests use what is public: a key, visible text, a property, a file of the run; never a private attribute.

A private name may change at any time, and a test that reads one breaks although nothing is wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OWN = {"self", "cls"}
OTHERS = {"atexit", "torch", "os", "sys"}
"""Modules of others, some of whose names begin with an underscore (`os._exit`, `torch.ops.aten._…`)."""
BY_NAME = {"getattr", "setattr", "delattr", "hasattr", "patch", "object", "attrgetter"}
"""Calls that take the name of an attribute, or a path that ends with one, as text."""

OF_NAMED_TUPLES = {"_replace", "_asdict", "_make", "_fields"}
"""Public methods of named tuples, which begin with an underscore so that they differ from the fields."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def root_of(node: ast.expr) -> str:
    """The name an attribute chain starts from, "" where it starts from something else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def private_uses(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every private attribute of another object in a test's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in OWN
            if not own and root_of(node) not in OTHERS:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in BY_NAME:
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            last = [name.rpartition(".")[2] for name in names]
            yield from ((node.lineno, name) for name in last if is_private(name))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("app.screen._draw()", ["_draw"]),
        ("rows()[0]._rows", ["_rows"]),
        ("app._serve_queue = None", ["_serve_queue"]),
        ("from workbench.app import _helper", ["_helper"]),
        ("monkeypatch.setattr(app, '_filters', [])", ["_filters"]),
        ("monkeypatch.setattr('workbench.app._filters', [])", ["_filters"]),
        ("getattr(app, '_filters')", ["_filters"]),
        ("self._mine = app.public; os._exit(1); torch.ops.aten._to_copy; app.__class__; row._replace(name='')", []),
    ],
)
def test_what_counts_as_a_private_use(source: str, found: list[str]) -> None:
    assert [name for _, name in private_uses(source)] == found


def test_no_test_uses_a_private_attribute() -> None:
    uses = [
        f"{path.relative_to(TESTS)}:{line}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, name in private_uses(path.read_text(encoding="utf-8"))
    ]
    assert not uses, "use what is public, or give the class a property with what the test needs:\n" + "\n".join(uses)
