"""Damaged copies of a file: bits turned, pieces cut, doubled or replaced; values of other kinds in JSON and TOML."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from typing import Any

import tomli_w

PIECES = (
    b"",
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b"\\",
    b"[" * 100_000,
    b'{"a":' * 3_000,
    b"]" * 50,
    b"9" * 5_000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"../../etc",
    b"a." * 500,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    7,
    1 << 31,
    1 << 63,
    10**90,
    -(10**90),
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "NaN",
    "Infinity",
    "\ud800",
    "\0",
    "../../x",
    "/etc/passwd",
    "x" * 5_000,
    "²",
    [],
    {},
    [[]],
    [None],
    {"": None},
    ["x"],
    [1, 2, 3],
    {"x": "y"},
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to four faults of any kind."""
    if chance.random() < 0.6 and (changed := with_other_values(data, chance)) is not None:
        return changed
    for _ in range(chance.randint(1, 4)):
        data = chance.choice((turned, cut, without_a_piece, doubled, with_a_piece, overwritten))(data, chance)
    return data


def turned(data: bytes, chance: random.Random) -> bytes:
    """One bit turned."""
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def without_a_piece(data: bytes, chance: random.Random) -> bytes:
    first, last = stretch(data, chance)
    return data[:first] + data[last:]


def doubled(data: bytes, chance: random.Random) -> bytes:
    first, last = stretch(data, chance)
    return data[:last] + data[first:last] + data[last:]


def with_a_piece(data: bytes, chance: random.Random) -> bytes:
    place = chance.randint(0, len(data))
    return data[:place] + chance.choice(PIECES) + data[place:]


def overwritten(data: bytes, chance: random.Random) -> bytes:
    first, last = stretch(data, chance)
    return data[:first] + chance.randbytes(last - first) + data[last:]


def stretch(data: bytes, chance: random.Random) -> tuple[int, int]:
    """Begin and end of a random piece, a short one more often than a long one."""
    first = chance.randint(0, len(data))
    longest = chance.choice((4, 32, len(data)))
    return first, min(len(data), first + chance.randint(0, longest))


def with_other_values(data: bytes, chance: random.Random) -> bytes | None:
    """JSON, lines of JSON or TOML in which one to three values are others, or gone; None where it is none of these."""
    for read, write in ((json.loads, as_json), (as_lines, as_json_lines), (toml_of, tomli_w.dumps)):
        try:
            value = read(data)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict | list):
            continue
        for _ in range(chance.randint(1, 3)):
            value = with_another_value(value, chance)
        try:
            return str(write(value)).encode("utf-8", "surrogatepass")
        except (AttributeError, TypeError, ValueError):  # TOML has no null, and is always a table
            return None
    return None


def as_json(value: Any) -> str:
    return json.dumps(value)


def as_lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


def as_json_lines(value: Any) -> str:
    return "\n".join(map(json.dumps, value if isinstance(value, list) else [value])) + "\n"


def toml_of(data: bytes) -> Any:
    return tomllib.loads(data.decode())


def with_another_value(value: Any, chance: random.Random) -> Any:
    """A copy of `value` in which one place, at any depth, is changed or left out."""
    value = copy.deepcopy(value)
    places = list(places_in(value))
    if not places:
        return chance.choice(VALUES)
    container, key = chance.choice(places)
    if chance.random() < 0.15:
        del container[key]
    elif chance.random() < 0.1 and isinstance(container, dict):
        container[chance.choice(("", "x", "../x", "\ud800", "x" * 300))] = container.pop(key)
    else:
        container[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def places_in(value: Any) -> Any:
    """Every (container, key) below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places_in(inner)
