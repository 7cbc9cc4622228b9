"""Prepared data in `<home>/data`: which runs use which, and taking away what none uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.errors import UserError
from llm.files import directory_size, read_json, remove_directory
from llm.run import Run, list_runs
from llm.run.checkpoints import STATE

INDEX = "dataset.json"


@dataclass(frozen=True)
class CachedData:
    """One prepared data set, and the names of the runs that were trained on it."""

    fingerprint: str
    path: Path
    corpus: str
    size_bytes: int
    used_by: tuple[str, ...]


def list_cached(home: Path) -> list[CachedData]:
    """Every prepared data set below `home`, the largest first. Runs in the trash count as users: they can come back.

    Reads one small file per checkpoint; for a thread.
    """
    users: dict[str, list[str]] = {}
    for run in [*list_runs(home), *map(Run, (home / "trash").glob("*@*"))]:
        for fingerprint in fingerprints_of(run, home):
            users.setdefault(fingerprint, []).append(run.name)
    found = []
    for path in (home / "data").glob(f"*/{INDEX}"):
        folder = path.parent
        used_by = tuple(sorted(users.get(folder.name, ())))
        found.append(CachedData(folder.name, folder, corpus_of(path), directory_size(folder), used_by))
    return sorted(found, key=lambda data: -data.size_bytes)


def fingerprints_of(run: Run, home: Path) -> set[str]:
    """The data sets of a run: as its checkpoints say or, where it has none yet, as its configuration asks for."""
    found = set()
    for path in run.checkpoint_directory.glob(f"step-*/{STATE}"):
        try:
            found.add(str(read_json(path).get("data_fingerprint", "")))
        except (UserError, AttributeError):
            continue  # a damaged checkpoint says nothing; the run's others do
    found.discard("")
    return found or asked_for(run, home)


def asked_for(run: Run, home: Path) -> set[str]:
    """What a run without a checkpoint will use, or is using: it may be training towards its first save right now."""
    from llm.data.tokens.prepare import find_tokenized_dataset

    try:
        dataset, _ = find_tokenized_dataset(run.config(), home)
    except (UserError, OSError):
        return set()  # its text is gone, or its run.toml: nothing that could still be trained
    return {dataset.fingerprint} if dataset is not None else set()


def corpus_of(index: Path) -> str:
    try:
        record = read_json(index)
    except UserError:
        return "(damaged)"
    return str(record.get("corpus", "")) if isinstance(record, dict) else "(damaged)"


def unused(cached: Sequence[CachedData]) -> list[CachedData]:
    return [data for data in cached if not data.used_by]


def clean(doomed: Sequence[CachedData]) -> int:
    """Take data sets away; returns the bytes that were freed. They are made again when a run needs them."""
    for data in doomed:
        remove_directory(data.path)
    return sum(data.size_bytes for data in doomed)
