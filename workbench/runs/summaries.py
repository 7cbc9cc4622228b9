"""What is known of a run in one row, and the file that keeps those rows: thousands of runs are listed at once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from llm.config.presets import NAME
from llm.errors import UserError
from llm.events import finite, to_field_value
from llm.files import read_json, write_atomic
from llm.reader import WRONG_SHAPE

FORMAT = 1

Stamp = tuple[int, int]
"""Size and time of modification (ns) of a file; zeros where there is none."""


@dataclass(frozen=True)
class RunSummary:
    """One row of the table. Losses are nats per token; `touched` is Unix seconds of the last sign of life."""

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


KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, NoneType),
}
"""What a field may hold as JSON, by its annotation."""

Kept = dict[str, tuple[tuple[Stamp, ...], RunSummary]]
"""By name: a summary, and the stamps of the files it was made from."""


def load_summaries(home: Path) -> Kept:
    """What was kept of the runs of `home`; nothing where there is no such file, or none that can be used."""
    path = home / "cache" / "runs.json"
    try:
        record = read_json(path) if path.exists() else {}
        known = [field.name for field in fields(RunSummary)]
        if record.get("format") != FORMAT or record.get("fields") != known:
            return {}
        return {row["summary"]["name"]: (stamps_of(row), summary_of(row["summary"], home)) for row in record["runs"]}
    except (UserError, *WRONG_SHAPE):
        return {}  # only a cache: it is made anew


def stamps_of(row: dict[str, Any]) -> tuple[Stamp, ...]:
    return tuple((int(size), int(time)) for size, time in row["stamp"])


def summary_of(record: dict[str, Any], home: Path) -> RunSummary:
    """The summary a record holds. ValueError where a field is of another kind: lists sort and format them all."""
    record = {field.name: to_field_value(record[field.name], field.type) for field in fields(RunSummary)}
    for item in fields(RunSummary):
        if item.type in KINDS and type(record[item.name]) not in KINDS[str(item.type)]:
            raise ValueError(f"{item.name} is of another kind")
    if not NAME.fullmatch(record["name"]) or not all(isinstance(tag, str) for tag in record["tags"]):
        raise ValueError("no run can be called so")
    return RunSummary(**(record | {"path": home / "runs" / record["name"], "tags": tuple(record["tags"])}))


def save_summaries(home: Path, kept: Kept) -> None:
    """Keep them for the next time; a disk that refuses is no reason to stop."""
    rows = [{"stamp": stamp, "summary": asdict(summary) | {"path": ""}} for stamp, summary in kept.values()]
    path = home / "cache" / "runs.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"format": FORMAT, "fields": [field.name for field in fields(RunSummary)], "runs": rows}
        write_atomic(path, json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode(errors="replace"))
    except OSError:
        return
