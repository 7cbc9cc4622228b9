"""The order of the logits processors, for the sampling panel. Imports torch late."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import DecodeConfig


@dataclass(frozen=True)
class ProcessorInfo:
    """One logits processor: its parameters, and whether it is active."""

    name: str
    params: tuple[str, ...]
    active: bool


def processors_in_order(params: DecodeConfig) -> list[ProcessorInfo]:
    """All processors in order. ConfigError for an unknown name in `params.order`."""
    from llm.sampling.pipeline import PROCESSORS, resolve_order

    by_name = {item.name: item for item in PROCESSORS}
    ordered = [by_name[name] for name in resolve_order(params.order)]
    return [ProcessorInfo(item.name.replace("_", " "), item.fields, item.is_active(params)) for item in ordered]
