"""The order in which the knobs work on the model's logits, as the knob panel shows it. Imports torch only when used."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import DecodeConfig


@dataclass(frozen=True)
class Place:
    """One transformation in the order: its knobs, and whether they are set such that it does anything."""

    name: str
    params: tuple[str, ...]
    active: bool


def in_order(params: DecodeConfig) -> list[Place]:
    """Every transformation, first to last. ConfigError where `params.order` names one that there is not."""
    from llm.sampling.pipeline import PROCESSORS, resolve_order

    by_name = {item.name: item for item in PROCESSORS}
    ordered = [by_name[name] for name in resolve_order(params.order)]
    return [Place(item.name.replace("_", " "), item.params, item.active(params)) for item in ordered]
