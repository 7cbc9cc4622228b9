"""Which runs are listed, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.runs.summaries import RunSummary

SORTS = ("age", "name", "status", "step", "loss", "validation", "bits", "parameters", "corpus", "size")
"""The columns to sort by."""


def select_runs(
    summaries: Sequence[RunSummary], text: str = "", sort: str = "age", reverse: bool = False
) -> list[RunSummary]:
    """The runs whose name, status, corpus, notes or tags contain every word of `text`, sorted by one column.

    The best numbers come first (newest, furthest, lowest loss), unknown ones last in either direction.
    """
    words = text.casefold().split()
    rows = [row for row in summaries if all(word in _search_text(row) for word in words)]
    known = [row for row in rows if _sort_key(row, sort) is not None]
    unknown = [row for row in rows if _sort_key(row, sort) is None]
    return sorted(known, key=lambda row: _sort_key(row, sort), reverse=reverse) + unknown


def _search_text(row: RunSummary) -> str:
    return " ".join((row.name, row.status, row.corpus, row.notes, row.parent, *row.tags)).casefold()


def _sort_key(row: RunSummary, sort: str) -> Any:
    keys: dict[str, Any] = {
        "age": -row.touched,
        "name": row.name.casefold(),
        "status": (not row.is_running, row.status),
        "step": -row.step,
        "loss": row.loss,
        "validation": row.validation_loss,
        "bits": row.bits_per_byte,
        "parameters": -row.parameters,
        "corpus": row.corpus.casefold(),
        "size": -row.size_bytes,
    }
    value = keys[sort]
    return None if isinstance(value, float) and value != value else value
