"""The fields of a configuration as a flat list, and the parsing and validation of their values.

TOML, the command line and the forms of the workbench all use `parse_value` and `validate`, so that rules and messages
are the same everywhere.
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
MAX_INT = 2**63 - 1  # the limit of TOML, safetensors and PyTorch's generators


@dataclass(frozen=True)
class Field:
    """One field of the configuration: its path, its allowed values and its help text."""

    path: str  # dotted, "train.lr"
    type: type  # bool, int, float, str or tuple (of strings)
    default: Any
    help: str
    low: float | None  # inclusive
    high: float | None  # inclusive
    above: float | None  # exclusive
    choices: tuple[str, ...]  # empty if any value within the bounds is allowed
    live: bool  # can change during training
    safe: bool  # can change when a run is resumed

    @property
    def section(self) -> str:
        """The table of the field; empty at the top level."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


@cache
def fields_of(tree: type, prefix: str = "") -> tuple[Field, ...]:
    """The fields of a configuration class and its sections, in the order of declaration."""
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
    """The value of a field from text that a user typed. ValueError with a readable reason if it is not valid.

    Booleans are true/false, on/off, yes/no; integers may have underscores or an exponent (1_000, 1e3); lists are
    separated by commas, or written as a TOML array if an item contains a comma.
    """
    if field.type is bool:
        return _boolean(text)
    if field.type is int or field.type is float:
        return validate(field, _number(text.strip(), whole=field.type is int))
    if field.type is tuple:
        return validate(field, _items(text))
    return validate(field, text)


def validate(field: Field, value: Any) -> Any:
    """`value` in the type of the field; ValueError with a readable reason if the field does not allow it."""
    if field.type is bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {quote(value)}")
        return value
    if field.type is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be a list of strings, not {quote(value)}")
        return tuple(_text(item) for item in value)
    if field.type is str:
        return _choice(field, value)
    return _within_bounds(field, _as_number(field, value))


def quote(value: Any) -> str:
    """`value` for a message: shortened, in TOML syntax."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(f"must be true or false (on/off, yes/no), not {quote(text)}")
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
        raise ValueError(f"must be {kind}, not {quote(text)}") from None


def _items(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            items = parse_toml("items = " + text)["items"]
        except Malformed:
            raise ValueError(f"is not a list: {quote(text)}") from None
        return items if isinstance(items, list) else [items]
    items = [item.strip() for item in text.split(",") if item.strip()]
    if "," not in text or not items:  # one item, whose spaces and line breaks matter (decode.stop), or only commas
        return [text] if text else []
    return items


def _choice(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {quote(value)}")
    if field.choices and value not in field.choices:
        fault = f"must be one of {', '.join(field.choices)}, not {quote(value)}"
        raise ValueError("; ".join(filter(None, (fault, did_you_mean(value, field.choices)))))
    if "\0" in value:  # which no path can hold
        raise ValueError("holds a NUL byte")
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
        raise ValueError(f"must be {kind}, not {quote(value)}")
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
    text = f"{value:.12g}" if isinstance(value, float) else quote(value)
    if field.low is not None and value < field.low:
        raise ValueError(f"must be at least {field.low:.12g}, not {text}")
    if field.above is not None and value <= field.above:
        raise ValueError(f"must be above {field.above:.12g}, not {text}")
    if field.high is not None and value > field.high:
        raise ValueError(f"must be at most {field.high:.12g}, not {text}")
    if field.type is int and value > MAX_INT:
        raise ValueError(f"must be at most {MAX_INT}, not {text}")
    return value
