"""The summary of a run for one table row, and the cache file of all summaries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llm.config.presets import NAME
from llm.errors import UserError
from llm.events import finite, to_field_value
from llm.files import read_json, write_atomic
from llm.reader import WRONG_SHAPE

FORMAT = 2

Stamp = tuple[int, int]
"""Size and modification time (ns) of a file; zeros if it is missing."""


@dataclass(frozen=True)
class RunSummary:
    """One row of the table. Losses are in nats per token; `created` and `touched` (the last event) in Unix seconds."""

    name: str
    path: Path
    status: str
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    bits_per_byte: float | None = None
    parameters: int = 0
    corpus: str = ""
    size_bytes: int = 0
    created: float = 0.0
    touched: float = 0.0
    device: str = ""
    id: str = ""
    parent: str = ""
    parent_id: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_running(self) -> bool:
        return self.status.startswith(("running", "paused"))


CachedSummaries = dict[str, tuple[tuple[Stamp, ...], RunSummary]]
"""Run name → the stamps of the files a summary was made from, and the summary."""


def load_summaries(home: Path) -> CachedSummaries:
    """The cached summaries of `home`; empty if the cache file is missing, damaged or of another version."""
    path = home / "cache" / "runs.json"
    try:
        record = read_json(path) if path.exists() else {}
        known = [field.name for field in fields(RunSummary)]
        if record.get("format") != FORMAT or record.get("fields") != known:
            return {}
        return {
            row["summary"]["name"]: (stamps_from(row), summary_from(row["summary"], home)) for row in record["runs"]
        }
    except (UserError, *WRONG_SHAPE):
        return {}  # only a cache: it is rebuilt


def stamps_from(row: dict[str, Any]) -> tuple[Stamp, ...]:
    return tuple((int(size), int(time)) for size, time in row["stamp"])


def summary_from(record: dict[str, Any], home: Path) -> RunSummary:
    """The summary in a record. Raises ValueError if a field has the wrong type: a list could not sort or format it."""
    record = {field.name: to_field_value(record[field.name], field.type) for field in fields(RunSummary)}
    if not NAME.fullmatch(record["name"]) or not all(isinstance(tag, str) for tag in record["tags"]):
        raise ValueError("invalid run name or tags")
    return RunSummary(**(record | {"path": home / "runs" / record["name"], "tags": tuple(record["tags"])}))


def save_summaries(home: Path, summaries: CachedSummaries) -> None:
    """Write the cache file. An error is ignored: the cache only saves time."""
    rows = [{"stamp": stamp, "summary": asdict(summary) | {"path": ""}} for stamp, summary in summaries.values()]
    path = home / "cache" / "runs.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"format": FORMAT, "fields": [field.name for field in fields(RunSummary)], "runs": rows}
        write_atomic(path, json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode(errors="replace"))
    except OSError:
        return
