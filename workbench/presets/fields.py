"""Fields of a configuration in a form: show, check and change their values as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm.config import Field, RunConfig, parse_value
from llm.errors import problem_of


def value_problem(field: Field, text: str) -> str:
    """Why `text` is not a valid value of `field`; "" if it is."""
    return problem_of(lambda: parse_value(field, text))


def allowed_values(field: Field) -> str:
    """The values a field allows, in words."""
    if field.choices:
        return "one of " + ", ".join(field.choices)
    if field.type is bool:
        return "true or false"
    parts = []
    if field.low is not None:
        parts.append(f"at least {field.low:g}")
    if field.above is not None:
        parts.append(f"above {field.above:g}")
    if field.high is not None:
        parts.append(f"at most {field.high:g}")
    kind = {int: "a whole number", float: "a number", tuple: "a list, separated by commas"}.get(field.type, "text")
    return ", ".join([kind, *parts]) + ("; can be changed during training" if field.live else "")


def input_text(value: Any) -> str:
    """A value as one types it into the input."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def with_field(config: RunConfig, field: Field, value: Any) -> RunConfig:
    """`config` with one field changed; contradictions with other fields are not checked."""
    section, _, name = field.path.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})
