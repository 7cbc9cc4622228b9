"""The checkpoints of a run as files: which there are, what they hold, whether they are whole. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.errors import UserError
from llm.files import read_json, remove_directory, sha256_of, write_json

FORMAT = 1
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """A committed checkpoint. `metrics` holds what was known when it was saved (`loss`, `validation_loss`, …)."""

    step: int
    path: Path
    size_bytes: int
    metrics: dict[str, float]
    best: bool = False
    last: bool = False
    pinned: bool = False


def write_manifest(
    directory: Path, step: int, metrics: dict[str, float], sums: Mapping[str, str] | None = None
) -> None:
    """Describe every file of `directory`; to be written last, for without it there is no checkpoint.

    `sums` are checksums by file name that the writer took of what it meant to write; other files are read for theirs.
    """
    known = sums or {}
    files = {
        path.name: {"size": path.stat().st_size, "sha256": known.get(path.name) or sha256_of(path)}
        for path in sorted(directory.iterdir())
    }
    write_json(directory / MANIFEST, {"format": FORMAT, "step": step, "metrics": metrics, "files": files})


def read_manifest(directory: Path) -> dict[str, Any]:
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{directory / MANIFEST} is damaged; use another checkpoint of this run.")
    if manifest.get("format", 0) > FORMAT:
        raise UserError(f"{directory} was written by a newer llm-workbench; upgrade with pip install -U llm-workbench.")
    return manifest


def read_checkpoint_info(directory: Path) -> CheckpointInfo | None:
    """What `directory` says of itself; None when it is no committed checkpoint or its manifest is damaged."""
    try:
        manifest = read_manifest(directory)
        sizes = sum(int(entry["size"]) for entry in manifest["files"].values())
        return CheckpointInfo(int(manifest["step"]), directory, sizes, dict(manifest.get("metrics", {})))
    except (UserError, KeyError, TypeError, ValueError):
        return None


def read_state(info: CheckpointInfo) -> dict[str, Any]:
    """All but the tensors of a checkpoint; nothing where the weights were made elsewhere, and have no more to tell."""
    path = info.path / STATE
    state: dict[str, Any] = read_json(path) if path.exists() else {}
    return state


def list_checkpoints(directory: Path, pins: Iterable[int] = ()) -> list[CheckpointInfo]:
    """Committed checkpoints below `directory`, oldest first, with best, last and pinned marked."""
    found = (read_checkpoint_info(path) for path in directory.glob("step-*"))
    infos = sorted((info for info in found if info is not None), key=lambda info: info.step)
    if not infos:
        return []
    scored = [info for info in infos if "validation_loss" in info.metrics]
    best = min(scored, key=lambda info: info.metrics["validation_loss"]).step if scored else None
    pinned = set(pins)
    return [replace(info, best=info.step == best, last=info is infos[-1], pinned=info.step in pinned) for info in infos]


def newest_step(directory: Path) -> int:
    """The step of the newest committed checkpoint below `directory`; −1 where there is none."""
    return max((info.step for info in list_checkpoints(directory)), default=-1)


def verify(
    info: CheckpointInfo, progress: Callable[[int], object] = lambda count: None, *, without: Collection[str] = ()
) -> None:
    """Read every file of a checkpoint but those named in `without`; a `UserError` names the first that is missing, cut
    or changed.

    `progress` is called with the number of bytes that were read since the last call.
    """
    for name, entry in read_manifest(info.path)["files"].items():
        if name in without:
            continue
        path = info.path / name
        if not path.is_file():
            raise UserError(f"{path} is missing; use another checkpoint of this run.")
        if path.stat().st_size != entry["size"]:
            raise UserError(
                f"{path} holds {path.stat().st_size} bytes instead of {entry['size']}; use another checkpoint."
            )
        if sha256_of(path, progress) != entry["sha256"]:
            raise UserError(f"{path} is damaged (its checksum differs); use another checkpoint of this run.")


def is_whole(info: CheckpointInfo) -> bool:
    """Whether `verify` finds nothing wrong with a checkpoint."""
    try:
        verify(info)
    except UserError:
        return False
    return True


def prune(directory: Path, keep: int, pins: Iterable[int]) -> list[CheckpointInfo]:
    """Delete all but the newest `keep` (0 = all are kept), the best and the pinned; returns what was deleted.

    Only to be called once the newest has been read back.
    """
    infos = list_checkpoints(directory, pins)
    if keep <= 0:
        return []
    doomed = [info for info in infos[:-keep] if not (info.best or info.pinned)]
    for info in doomed:
        remove_directory(info.path)
    return doomed
