"""Prepared data in `<home>/data`: its tokens, which runs use it, and deleting what no run uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.tokens.staging import abandoned_folders
from llm.errors import UserError
from llm.files import directory_size, read_json, remove_directory
from llm.run import Run, list_runs
from llm.run.checkpoints import STATE

if TYPE_CHECKING:
    from llm.data.tokens.dataset import Dataset

INDEX = "dataset.json"
PREVIEW_TOKENS = 600
LISTED_TOKENS = 24
MAX_COUNTED_TOKENS = 1 << 26
COUNT_CHUNK = 1 << 22


@dataclass(frozen=True)
class PreparedData:
    """One prepared dataset, and the names of the runs that were trained on it."""

    fingerprint: str
    path: Path
    corpus: str
    size_bytes: int
    used_by: tuple[str, ...]


def list_prepared(home: Path) -> list[PreparedData]:
    """Every prepared dataset below `home`, including interrupted ones, the largest first. Runs in the
    trash count as users: they can be restored.

    Reads one small file per checkpoint; for a thread.
    """
    users: dict[str, list[str]] = {}
    for run in [*list_runs(home), *map(Run, (home / "trash").glob("*@*"))]:
        for fingerprint in used_fingerprints(run, home):
            users.setdefault(fingerprint, []).append(run.name)
    found = []
    for path in (home / "data").glob(f"*/{INDEX}"):
        folder = path.parent
        used_by = tuple(sorted(users.get(folder.name, ())))
        found.append(PreparedData(folder.name, folder, corpus_of(path), directory_size(folder), used_by))
    for folder in abandoned_folders(home / "data"):
        found.append(PreparedData(folder.name, folder, "(preparation interrupted)", directory_size(folder), ()))
    return sorted(found, key=lambda data: -data.size_bytes)


def used_fingerprints(run: Run, home: Path) -> set[str]:
    """The datasets named by the checkpoints of a run; without a checkpoint, the one that its configuration needs."""
    found = set()
    for path in run.checkpoint_directory.glob(f"step-*/{STATE}"):
        try:
            found.add(str(read_json(path).get("data_fingerprint", "")))
        except (UserError, AttributeError):
            continue  # damaged: the other checkpoints of the run name the same data
    found.discard("")
    return found or needed_fingerprints(run, home)


def needed_fingerprints(run: Run, home: Path) -> set[str]:
    """The dataset a run without a checkpoint needs: it may be in training, before its first save."""
    from llm.data.tokens.prepare import find_tokenized_dataset

    try:
        dataset, _ = find_tokenized_dataset(run.config(), home)
    except (UserError, OSError):
        return set()  # its text or its run.toml is gone: it cannot be trained
    return {dataset.fingerprint} if dataset is not None else set()


def corpus_of(index: Path) -> str:
    try:
        record = read_json(index)
    except UserError:
        return "(damaged)"
    return str(record.get("corpus", "")) if isinstance(record, dict) else "(damaged)"


def unused(items: Sequence[PreparedData]) -> list[PreparedData]:
    return [data for data in items if not data.used_by]


def clean(items: Sequence[PreparedData]) -> int:
    """Delete datasets; returns the number of bytes freed. They are prepared again when a run needs them."""
    for data in items:
        remove_directory(data.path)
    return sum(data.size_bytes for data in items)


@dataclass(frozen=True)
class Inspection:
    """The contents of a prepared dataset: its first ids, its most and least frequent ids as (id, count) among
    `counted` tokens, the number of ids that never occur, and its size on disk."""

    dataset: Dataset
    beginning: list[int]
    most: list[tuple[int, int]]
    least: list[tuple[int, int]]
    counted: int
    unused: int
    size_bytes: int


def inspect_dataset(folder: Path) -> Inspection:
    """Open a prepared dataset and count its training tokens. Raises UserError if it is damaged."""
    import numpy as np

    from llm.data.tokens.dataset import load_dataset

    dataset = load_dataset(folder)
    counted = min(len(dataset.train), MAX_COUNTED_TOKENS)
    counts = np.zeros(dataset.tokenizer.vocab_size, np.int64)
    for start in range(0, counted, COUNT_CHUNK):
        ids = dataset.train.read(start, min(start + COUNT_CHUNK, counted))
        counts += np.bincount(ids, minlength=len(counts))
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")]
    pairs = [(int(token), int(counts[token])) for token in order]
    beginning = dataset.train.read(0, min(PREVIEW_TOKENS, len(dataset.train))).tolist()
    return Inspection(
        dataset=dataset,
        beginning=beginning,
        most=pairs[:LISTED_TOKENS],
        least=pairs[: -LISTED_TOKENS - 1 : -1],
        counted=counted,
        unused=len(counts) - len(used),
        size_bytes=directory_size(folder),
    )
