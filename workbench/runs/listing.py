"""The runs that are listed: filtered, sorted, and as a tree of forks."""

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


def parent_of(row: RunSummary, rows_by_id: dict[str, RunSummary], rows_by_name: dict[str, RunSummary]) -> str:
    """The current name of the run that `row` was forked from; "" if it no longer exists."""
    if not row.parent:
        return ""
    found = rows_by_id.get(row.parent_id) or rows_by_name.get(row.parent.rpartition("@")[0])
    return found.name if found is not None and found.name != row.name else ""


def as_tree(rows: Sequence[RunSummary]) -> list[tuple[RunSummary, str]]:
    """The rows with every fork below its parent, each with the branch to draw before its name.

    Siblings keep their order in `rows`; a fork whose parent is not among `rows` is at the root.
    """
    by_id = {row.id: row for row in rows if row.id}
    by_name = {row.name: row for row in rows}
    children: dict[str, list[RunSummary]] = {}
    for row in rows:
        children.setdefault(parent_of(row, by_id, by_name), []).append(row)
    found: list[tuple[RunSummary, str]] = []
    seen: set[str] = set()
    waiting = [(row, "", "") for row in reversed(children.get("", []))]
    while waiting:  # not recursive: a chain of forks may be long
        row, branch, below = waiting.pop()
        seen.add(row.name)
        found.append((row, branch))
        under = [child for child in children.get(row.name, []) if child.name not in seen]
        for place, child in reversed(list(enumerate(under))):
            is_last = place == len(under) - 1
            waiting.append((child, below + ("└ " if is_last else "├ "), below + ("  " if is_last else "│ ")))
    return found + [(row, "") for row in rows if row.name not in seen]
