"""How a configuration field is declared."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    safe: bool = False,
) -> Any:
    """Declare one configuration field. `low` and `high` are inclusive bounds, `above` is an exclusive lower bound.

    `choices` are the allowed values of a string; a Literal type lists them itself.
    """
    bounds = {"low": low, "high": high, "above": above, "choices": choices}
    return field(default=default, metadata={"help": help, **bounds, "live": live, "safe": safe or live})
