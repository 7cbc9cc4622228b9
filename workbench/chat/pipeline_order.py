"""The order in which the knobs work on the model's logits, as the knob panel shows it. Imports torch only when used."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import DecodeConfig


@dataclass(frozen=True)
class Place:
    """One transformation in the order: its knobs, and whether they are set such that it does anything."""

    name: str
    knobs: tuple[str, ...]
    active: bool


def in_order(knobs: DecodeConfig) -> list[Place]:
    """Every transformation, first to last. ConfigError where `knobs.order` names one that there is not."""
    from llm.sampling.stack import TRANSFORMATIONS, resolved_order

    by_name = {item.name: item for item in TRANSFORMATIONS}
    ordered = [by_name[name] for name in resolved_order(knobs.order)]
    return [Place(item.name.replace("_", " "), item.knobs, item.active(knobs)) for item in ordered]
