"""The fields of a configuration as a flat list, and the reading of one value.

Everything that turns text or foreign data into a value of a field (TOML, the command line, the forms of the workbench)
goes through `parse_value` and `validate`, so that one rule and one sentence hold everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llm.names import did_you_mean
from llm.reader import Malformed, parse_toml

TRUE_WORDS = ("true", "on", "yes", "1")
FALSE_WORDS = ("false", "off", "no", "0")
LARGEST_INT = 2**63 - 1  # what TOML, safetensors and torch's generators hold


@dataclass(frozen=True)
class Field:
    """One leaf of the configuration tree: where it is, what it may hold, and what it is for."""

    path: str  # dotted, "train.lr"
    type: type  # bool, int, float, str or tuple (of strings)
    default: Any
    help: str
    low: float | None  # inclusive
    high: float | None  # inclusive
    above: float | None  # exclusive
    choices: tuple[str, ...]  # empty where any value within the bounds will do
    live: bool  # may be changed while training
    safe: bool  # may differ when a run is resumed

    @property
    def section(self) -> str:
        """The table the field lives in; empty for those at the top."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


@cache
def fields_of(tree: type, prefix: str = "") -> tuple[Field, ...]:
    """The leaves of a configuration class, depth first, in the order they are declared."""
    hints = get_type_hints(tree)
    found: list[Field] = []
    for item in fields(tree):
        kind, path = hints[item.name], prefix + item.name
        if is_dataclass(kind):
            assert isinstance(kind, type)
            found.extend(fields_of(kind, path + "."))
            continue
        origin = get_origin(kind)
        plain, metadata = (str, {"choices": get_args(kind)}) if origin is Literal else (origin or kind, {})
        found.append(Field(path=path, type=plain, default=item.default, **(dict(item.metadata) | metadata)))
    return tuple(found)


def parse_value(field: Field, text: str) -> Any:
    """The value that `text`, typed by a person, stands for. ValueError with a plain sentence where it stands for none.

    Booleans are true/false, on/off, yes/no; integers may have underscores or an exponent (1_000, 1e3); lists are
    separated by commas, or written as a TOML array where an item holds a comma.
    """
    if field.type is bool:
        return _boolean(text)
    if field.type is int or field.type is float:
        return validate(field, _number(text.strip(), whole=field.type is int))
    if field.type is tuple:
        return validate(field, _items(text))
    return validate(field, text)


def validate(field: Field, value: Any) -> Any:
    """`value` in the field's own type, if it is one the field may hold; ValueError with a plain sentence otherwise."""
    if field.type is bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {shown(value)}")
        return value
    if field.type is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be a list of strings, not {shown(value)}")
        return tuple(_text(item) for item in value)
    if field.type is str:
        return _choice(field, value)
    return _within_bounds(field, _as_number(field, value))


def shown(value: Any) -> str:
    """`value` as it is quoted in a message: short, and in the words of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(f"must be true or false (on/off, yes/no), not {shown(text)}")
    return word in TRUE_WORDS


def _number(text: str, *, whole: bool) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"must be {kind}, not {shown(text)}") from None


def _items(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            items = parse_toml("items = " + text)["items"]
        except Malformed:
            raise ValueError(f"is not a list: {shown(text)}") from None
        return items if isinstance(items, list) else [items]
    items = [item.strip() for item in text.split(",") if item.strip()]
    if "," not in text or not items:  # one item, whose spaces and line breaks may matter (decode.stop); or a comma
        return [text] if text else []
    return items


def _choice(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {shown(value)}")
    if field.choices and value not in field.choices:
        fault = f"must be one of {', '.join(field.choices)}, not {shown(value)}"
        raise ValueError("; ".join(filter(None, (fault, did_you_mean(value, field.choices)))))
    return _text(value)


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds bytes that are not UTF-8 text") from None
    return value


def _as_number(field: Field, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "a whole number" if field.type is int else "a number"
        raise ValueError(f"must be {kind}, not {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    if field.type is int:
        if value != int(value):
            raise ValueError(f"must be a whole number, not {value}")
        return int(value)
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is too large a number") from None


def _within_bounds(field: Field, value: int | float) -> int | float:
    written = f"{value:.12g}" if isinstance(value, float) else shown(value)
    if field.low is not None and value < field.low:
        raise ValueError(f"must be at least {field.low:.12g}, not {written}")
    if field.above is not None and value <= field.above:
        raise ValueError(f"must be above {field.above:.12g}, not {written}")
    if field.high is not None and value > field.high:
        raise ValueError(f"must be at most {field.high:.12g}, not {written}")
    if field.type is int and value > LARGEST_INT:
        raise ValueError(f"must be at most {LARGEST_INT}, not {written}")
    return value
