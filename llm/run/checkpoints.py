"""The checkpoint files of a run: listing, describing and verifying them. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.errors import UserError, problem_of
from llm.files import read_json, remove_directory, sha256_of, write_json
from llm.reader import MAX_JSON_BYTES

FORMAT = 1
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
ADAPTER, BASE = "adapter.safetensors", "base"
"""The weights file of a LoRA checkpoint, which has no MODEL; the folder of a run for the base model of its adapters."""
PRECISIONS = ("fp32", "bf16", "fp16")
MAX_THREADS = 1 << 12
MAX_STEP_DIGITS = 18  # a step fits in 64 bits
MAX_OPTIMIZER_RATIO = 4  # bytes of optimizer state per byte of weights; AdamW has 2
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class CheckpointInfo:
    """A published checkpoint. `metrics` are those at the time of saving (`loss`, `validation_loss`, …)."""

    step: int
    path: Path
    size_bytes: int
    metrics: dict[str, float]
    best: bool = False
    last: bool = False
    pinned: bool = False

    @property
    def tags(self) -> list[str]:
        """The ones of "best", "last" and "pinned" that apply."""
        return [name for name in ("best", "last", "pinned") if getattr(self, name)]


def write_manifest(
    directory: Path,
    step: int,
    metrics: dict[str, float],
    sums: Mapping[str, str] | None = None,
    base: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest of `directory`: step, metrics, and the size and sha256 of every file. Call it last, since the
    manifest makes the folder a checkpoint.

    `sums`: sha256 by file name, for files that need not be read again. `base`: name and sha256 of the base model of
    adapters.
    """
    known = sums or {}
    files = {
        path.name: {"size": path.stat().st_size, "sha256": known.get(path.name) or sha256_of(path)}
        for path in sorted(directory.iterdir())
    }
    manifest = {"format": FORMAT, "step": step, "metrics": metrics, "files": files}
    write_json(directory / MANIFEST, manifest | ({"base": dict(base)} if base else {}))


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. UserError if it is missing or invalid, or was written by a newer version."""
    manifest = read_json(directory / MANIFEST)
    if isinstance(manifest, dict) and is_whole_number(format := manifest.get("format", 0)) and format > FORMAT:
        raise UserError(f"{directory} was written by a newer llm-workbench; upgrade with pip install -U llm-workbench.")
    if wrong := manifest_problem(manifest):
        raise UserError(f"{directory / MANIFEST} is damaged ({wrong}); use another checkpoint of this run.")
    return dict(manifest)


def manifest_problem(manifest: Any) -> str:
    """What is wrong with a manifest; "" if it is valid."""
    if not isinstance(manifest, dict):
        return "it is not an object"
    files, metrics = manifest.get("files"), manifest.get("metrics", {})
    if not is_whole_number(manifest.get("step")) or not is_whole_number(manifest.get("format", 0)):
        return "its step or format is not a whole number"
    if not isinstance(metrics, dict) or not all(map(is_number, metrics.values())):
        return "its metrics are not numbers"
    if not is_mapping_of(is_string)(manifest.get("base", {})):
        return "its base is not described in text"
    if not isinstance(files, dict):
        return "it does not describe its files"
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name):
            return f"it names {name!r:.40}, which is not a file of this folder"
        described = isinstance(entry, dict) and is_whole_number(entry.get("size"))
        if not described or not isinstance(entry.get("sha256"), str):
            return f"it does not give size and checksum of {name}"
    return ""


def state_problem(state: Any) -> str:
    """What is wrong with the content of `state.json`; "" if it is valid. Fields may be missing."""
    if not isinstance(state, dict):
        return "it is not an object"
    for name, is_valid in STATE_FIELDS.items():
        if name in state and not is_valid(state[name]):
            return f"{name} is {state[name]!r:.40}"
    return ""


def is_whole_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_mapping_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A predicate: whether a value is an object and `is_valid` holds for each of its values."""
    return lambda value: isinstance(value, dict) and all(map(is_valid, value.values()))


def is_string(value: Any) -> bool:
    return isinstance(value, str)


def is_plan(value: Any) -> bool:
    """Whether a value is a `llm.device.Plan` as JSON, or null."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {"device", "precision", "threads", "compiled"}:
        return False
    threads = value["threads"]
    known = value["precision"] in PRECISIONS and isinstance(value["device"], str)
    return known and is_whole_number(threads) and threads <= MAX_THREADS and isinstance(value["compiled"], bool)


def is_spike_record(value: Any) -> bool:
    """Whether a value is a `llm.training.spikes.SpikeDetector` as JSON."""
    if not isinstance(value, dict) or not is_whole_number(value.get("due", 0)):
        return False
    seen = value.get("seen", [])
    return isinstance(seen, list) and all(
        isinstance(entry, list) and len(entry) == 3 and is_whole_number(entry[0]) and is_number(entry[1])
        for entry in seen
    )


STATE_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "format": is_whole_number,
    "step": is_whole_number,
    "batch_index": is_whole_number,
    "tokens_seen": is_whole_number,
    "elapsed": is_number,
    "loss_scale": is_number,
    "steps_at_scale": is_whole_number,
    "rows": is_whole_number,
    "micro_batch": is_whole_number,
    "flops_per_second": is_number,
    "metrics": is_mapping_of(is_number),
    "best_validation_loss": lambda value: value is None or is_number(value),
    "overrides": is_mapping_of(is_string),
    "plan": is_plan,
    "data_fingerprint": is_string,
    "spikes": is_spike_record,
}
"""Field of `state.json` → predicate for its values. `data_cursor` is checked by the stream that it belongs to."""


def read_checkpoint_info(directory: Path) -> CheckpointInfo | None:
    """The checkpoint in `directory`; None if it has no valid manifest."""
    try:
        manifest = read_manifest(directory)
    except UserError:
        return None
    size = sum(int(entry["size"]) for entry in manifest["files"].values())
    return CheckpointInfo(manifest["step"], directory, size, dict(manifest.get("metrics", {})))


def damaged_checkpoints(directory: Path) -> dict[int, str]:
    """Step → problem, for each checkpoint folder below `directory` without a valid manifest; 0 if the name has no step.

    A folder is renamed to `step-…` when it is complete, so an invalid manifest means later damage.
    """
    problems = {}
    for path in directory.glob("step-*"):
        try:
            read_manifest(path)
        except UserError as error:
            digits = path.name.removeprefix("step-")
            problems[int(digits) if digits.isdecimal() and len(digits) <= MAX_STEP_DIGITS else 0] = str(error)
    return problems


def read_state(info: CheckpointInfo) -> dict[str, Any]:
    """The content of `state.json`; empty where there is none, as for imported weights. UserError if it is damaged, of
    another step, or written by a newer version."""
    path = info.path / STATE
    if not path.exists():
        return {}
    state = read_json(path)
    if isinstance(state, dict) and is_whole_number(format := state.get("format", 0)) and format > FORMAT:
        raise UserError(f"{info.path} was written by a newer llm-workbench; upgrade to read it.")
    wrong = state_problem(state)
    if not wrong and (step := state.get("step", 0)) != info.step:  # the run would continue at the wrong step
        wrong = f"it is the state of step {step}, not of {info.step}"
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}); use another checkpoint of this run.")
    return dict(state)


def list_checkpoints(directory: Path, pins: Iterable[int] = ()) -> list[CheckpointInfo]:
    """The published checkpoints below `directory` in the order of their steps, with best, last and pinned marked."""
    readable = (read_checkpoint_info(path) for path in directory.glob("step-*"))
    infos = sorted((info for info in readable if info is not None), key=lambda info: info.step)
    if not infos:
        return []
    scored = [info for info in infos if "validation_loss" in info.metrics]
    best = min(scored, key=lambda info: info.metrics["validation_loss"]).step if scored else None
    pinned = set(pins)
    return [replace(info, best=info.step == best, last=info is infos[-1], pinned=info.step in pinned) for info in infos]


def newest_step(directory: Path) -> int:
    """The step of the newest published checkpoint below `directory`; −1 without any."""
    return max((info.step for info in list_checkpoints(directory)), default=-1)


def verify(
    info: CheckpointInfo, progress: Callable[[int], object] = lambda count: None, *, without: Collection[str] = ()
) -> None:
    """Read the files of a checkpoint except those in `without`. UserError names the first one that is missing,
    truncated or changed. `progress` is called with the number of bytes read since the last call."""
    files = read_manifest(info.path)["files"]
    for name, entry in files.items():
        if name in without:
            continue
        path = info.path / name
        if entry["size"] > max_size(name, files):
            raise UserError(f"{path} holds {entry['size']:,} bytes, which is too many; use another checkpoint.")
        if path.is_symlink():
            raise UserError(f"{path} is a link; a checkpoint may hold only regular files: copy the file there.")
        if not path.is_file():
            raise UserError(f"{path} is missing; use another checkpoint of this run.")
        if path.stat().st_size != entry["size"]:
            raise UserError(
                f"{path} holds {path.stat().st_size} bytes instead of {entry['size']}; use another checkpoint."
            )
        if sha256_of(path, progress) != entry["sha256"]:
            raise UserError(f"{path} is damaged (its checksum differs); use another checkpoint of this run.")


def max_size(name: str, files: Mapping[str, Any]) -> float:
    """The largest size in bytes at which a checkpoint file is read. Weights have no limit here: loading checks their
    size against the configuration."""
    if name in (MODEL, ADAPTER):
        return math.inf
    if name == OPTIMIZER:
        weights: int = files.get(MODEL, files.get(ADAPTER, {"size": 0}))["size"]
        return MAX_OPTIMIZER_RATIO * weights + MAX_JSON_BYTES
    return MAX_JSON_BYTES


def has_file(info: CheckpointInfo, name: str) -> bool:
    """Whether the manifest of a checkpoint lists a file. Unlisted files are ignored."""
    return name in read_manifest(info.path)["files"]


def weights_file(info: CheckpointInfo) -> str:
    """The name of the weights file: ADAPTER in a LoRA checkpoint, else MODEL."""
    return ADAPTER if has_file(info, ADAPTER) else MODEL


def base_of(info: CheckpointInfo) -> CheckpointInfo:
    """The base model of a checkpoint's adapters, in `base/` of its run. UserError unless its manifest has the sha256
    that the adapters were trained on. The weights are not read."""
    expected = read_manifest(info.path).get("base", {})
    path = info.path.parent.parent / BASE
    base = read_checkpoint_info(path)
    if base is None or read_manifest(path)["files"].get(MODEL, {}).get("sha256") != expected.get("sha256"):
        raise UserError(
            f"{info.path} holds adapters of {expected.get('name', 'another model')}, whose weights are not in {path}; "
            "restore that folder."
        )
    return base


def verify_weights(info: CheckpointInfo) -> None:
    """`verify` the files that loading a model reads: all but the optimizer state, and the base model of adapters."""
    verify(info, without={OPTIMIZER})
    if has_file(info, ADAPTER):
        verify(base_of(info))


def is_intact(info: CheckpointInfo) -> bool:
    """Whether a checkpoint passes `verify`."""
    return not problem_of(lambda: verify(info))


def prune(directory: Path, keep: int, pins: Iterable[int]) -> list[CheckpointInfo]:
    """Delete all but the newest `keep` (0 = keep all), the best and the pinned checkpoints; returns the deleted ones.

    Call it only after `verify` has passed for the newest one.
    """
    infos = list_checkpoints(directory, pins)
    if keep <= 0:
        return []
    deleted = [info for info in infos[:-keep] if not (info.best or info.pinned)]
    for info in deleted:
        remove_directory(info.path)
    return deleted
