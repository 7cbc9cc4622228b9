"""Sizes of a preset: what it changes where a machine is much slower or faster than the one it was made for.

A preset file is its size "medium". A table `[size.NAME]` of it holds the fields that the size changes and when it is
used: `below` or `above` a training speed in FLOP/s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm.config.fields import quote
from llm.errors import Problem

MEDIUM = "medium"
SIZE_TABLE = "size"
LIMITS = ("below", "above")


@dataclass(frozen=True)
class Size:
    """A size other than medium: for a training speed below `below` or above `above`, in FLOP/s; `tables` are the
    fields that it changes."""

    name: str
    tables: Mapping[str, Any]
    below: float = 0.0
    above: float = math.inf


@dataclass(frozen=True)
class MachineSpeed:
    """The speed of training on this machine, in FLOP/s: `measured` by the wall clock, which other programs slow down,
    and `unhindered`, by processor time."""

    measured: float
    unhindered: float


def read_sizes(table: Any) -> tuple[list[Size], list[Problem]]:
    """The sizes in the table `size` of a preset file, and its problems. The fields are not read."""
    if not isinstance(table, Mapping):
        return [], [Problem(SIZE_TABLE, f"must be a table of sizes, not {quote(table)}")]
    sizes, problems = [], []
    for name, tables in table.items():
        path = f"{SIZE_TABLE}.{name}"
        if not isinstance(tables, Mapping) or name == MEDIUM:
            fault = "is the preset itself; give its fields outside" if name == MEDIUM else "must be a table of fields"
            problems.append(Problem(path, fault))
            continue
        limits = {key: value for key, value in tables.items() if key in LIMITS}
        if len(limits) != 1 or not all(is_speed(value) for value in limits.values()):
            problems.append(Problem(path, "needs either below or above, a training speed in FLOP/s"))
            continue
        fields = {key: value for key, value in tables.items() if key not in LIMITS}
        sizes.append(Size(name, fields, **{key: float(value) for key, value in limits.items()}))
    return sizes, problems


def is_speed(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def choose_size(sizes: Iterable[Size], speed: MachineSpeed) -> str:
    """The name of the size for a machine of this speed.

    A moment in which other programs use the processors makes no machine slow: below a limit counts the unhindered
    speed, above a limit the measured one.
    """
    ordered = in_order(sizes)
    slow = [size.name for size in ordered if speed.unhindered < size.below]
    fast = [size.name for size in ordered if speed.measured > size.above]
    return next(iter([*slow, *reversed(fast)]), MEDIUM)


def names_of(sizes: Iterable[Size]) -> list[str]:
    """The names of all sizes, that for the slowest machine first."""
    ordered = in_order(sizes)
    slow, fast = [[size.name for size in ordered if bool(size.below) == is_slow] for is_slow in (True, False)]
    return [*slow, MEDIUM, *fast]


def in_order(sizes: Iterable[Size]) -> list[Size]:
    return sorted(sizes, key=lambda size: size.below or size.above)
