"""A fork: a new run that starts from another run's checkpoint. No torch.

If no `optim` field changes, it continues at the parent's step with the parent's optimizer state. Otherwise, or with
`weights_only`, it starts at step 0 with a new optimizer. The tokenizer and the model's shape cannot change.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import RunConfig, check, diff, with_overrides
from llm.errors import ConfigError, Problem, UserError, reason_of
from llm.files import copy_files, published_directory, write_json
from llm.run.checkpoints import (
    ADAPTER,
    BASE,
    OPTIMIZER,
    STATE,
    CheckpointInfo,
    base_of,
    read_manifest,
    verify,
    weights_file,
    write_manifest,
)
from llm.run.directory import Run, find_checkpoint
from llm.run.states import state_and_config

TRAINED_TOKENIZERS = ("char", "bpe", "sentencepiece")
"""Kinds of tokenizers that are trained on the run's text."""
PLAN_FIELDS = frozenset(f"train.{name}" for name in ("device", "precision", "compile", "threads", "kernels"))
"""If one of these changes, the fork resolves its plan (device, precision, threads) again."""
BATCH_FIELDS = frozenset(
    f"train.{name}" for name in ("batch_size", "seq_len", "accumulation", "total_batch_tokens", "seed")
)
"""If one of these changes, so do the batches: the fork reads a streamed corpus from its beginning."""
SAFE_DATA_FIELDS = frozenset({"data.processes"})
"""Fields of `data` that do not change the tokenized text."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint a fork starts from, which the run's trainer may remove at any time. `config` is the one in effect
    there, with live settings and extensions; `files` are the names in its manifest."""

    run: Run
    checkpoint: CheckpointInfo
    config: RunConfig
    state: dict[str, Any]
    files: frozenset[str]

    @property
    def reference(self) -> str:
        return f"{self.run.name}@{self.checkpoint.step}"


def open_parent(home: Path, reference: str, on_damage: Callable[[str], object] = lambda message: None) -> Parent:
    """The checkpoint of `RUN`, `RUN@last`, `RUN@best` or `RUN@STEP`, as in `find_checkpoint`."""
    return parent_at(*find_checkpoint(home, reference, on_damage))


def parent_at(run: Run, info: CheckpointInfo) -> Parent:
    """A checkpoint with its configuration. ConfigError if its state overrides a field that a run cannot change."""
    state, config = state_and_config(run, info)
    return Parent(run, info, config, state, frozenset(read_manifest(info.path)["files"]))


def changed_paths(parent: Parent, config: RunConfig) -> set[str]:
    return {path for path, _, _ in diff(parent.config, config)}


def keeps_optimizer_state(parent: Parent, config: RunConfig) -> bool:
    """Whether a fork with `config` can keep the optimizer state, and with it the step count."""
    return OPTIMIZER in parent.files and not any(path.startswith("optim.") for path in changed_paths(parent, config))


def check_fields(parent: Parent, config: RunConfig, *, weights_only: bool = False) -> None:
    """ConfigError if `config` cannot be trained from the weights of `parent`."""
    if problems := fork_problems(parent, config, weights_only=weights_only):
        raise ConfigError(problems)


def fork_problems(parent: Parent, config: RunConfig, *, weights_only: bool = False) -> list[Problem]:
    """The reasons why `config` cannot be trained from the weights of `parent`, by field."""
    problems = [
        Problem(path, f"cannot change from {before} to {after} in a fork: {why}; start a new run instead")
        for path, before, after in diff(parent.config, config)
        if (why := why_unchangeable(path, parent.config) or why_not_in_fork(path))
    ]
    step = parent.checkpoint.step
    if keeps_optimizer_state(parent, config) and not weights_only and 0 < config.train.steps <= step:
        reason = f"must be above {step}, where the fork continues (or take weights only)"
        problems.append(Problem("train.steps", reason))
    if parent.config.tune.lora_rank and ADAPTER not in parent.files:
        reason = f"is set, but {parent.reference} holds merged weights; fork another checkpoint, or use sft"
        problems.append(Problem("tune.lora_rank", reason))
    return problems or check(config)


def why_unchangeable(path: str, config: RunConfig) -> str:
    """Why a fork cannot change the field at `path`; "" if it can."""
    if path.startswith("tokenizer."):
        return "the weights belong to the parent's tokenizer"
    if path == "model.dropout" or (path == "model.context" and config.model.position == "rope"):
        return ""
    return "the weights have the parent's shape" if path.startswith("model.") else ""


def why_not_in_fork(path: str) -> str:
    """Why a fork, unlike a stage of fine-tuning, cannot change the field at `path`; "" if it can."""
    return "the adapters have the parent's shape (sft and dpo start new ones)" if path.startswith("tune.lora_") else ""


def fork(home: Path, parent: Parent, config: RunConfig, *, name: str = "", weights_only: bool = False) -> Run:
    """Create the fork with its first checkpoint. `name` defaults to the parent's name with `-fork-N`.

    ConfigError if `config` does not fit the parent, UserError if the checkpoint is damaged or cannot be copied. No run
    remains after an error.
    """
    check_fields(parent, config, weights_only=weights_only)
    continues = keeps_optimizer_state(parent, config) and not weights_only
    changed = changed_paths(parent, config)
    verify(parent.checkpoint)

    def fill(run: Run) -> None:
        copy_files(parent.run.path / "tokenizer", run.path / "tokenizer")
        copy_checkpoint(parent, run, changed, continues)

    config = with_kept_tokenizer(home, parent, config, changed)
    return create_child(home, parent, config, fill, name=name, stem=stem_of(parent.run.name), suffix="-fork")


def create_child(
    home: Path, parent: Parent, config: RunConfig, fill: Callable[[Run], None], *, name: str, stem: str, suffix: str
) -> Run:
    """Create a run that starts from `parent`; `fill` writes its files. `name` defaults to `stem` + `suffix` + `-N`.
    UserError if files cannot be copied."""
    extra = {"parent_id": str(parent.run.info().get("id", ""))}
    try:
        return Run.create_numbered(
            home, stem, config, name=name, suffix=suffix, parent=parent.reference, extra=extra, fill=fill
        )
    except OSError as error:
        raise UserError(
            f"{parent.reference} could not be copied ({reason_of(error)}); "
            "check that the disk has room and that the checkpoint still exists."
        ) from error


def stem_of(name: str) -> str:
    """A run's name without `-fork-N`, so that a fork of a fork gets the next number instead of a second suffix."""
    head, _, number = name.rpartition("-fork-")
    return head if head and number.isdecimal() else name


def copy_checkpoint(parent: Parent, run: Run, changed: set[str], continues: bool) -> None:
    """Publish the fork's first checkpoint: at the parent's step with optimizer and state if `continues`, else the
    weights alone at step 0."""
    source, step = parent.checkpoint.path, parent.checkpoint.step if continues else 0
    scalars = state_of_fork(parent.state, changed) if continues else {"format": parent.state.get("format", 1)}
    metrics = parent.checkpoint.metrics if continues and not changes_data(changed) else {}
    weights, manifest = weights_file(parent.checkpoint), read_manifest(source)
    files = (weights, OPTIMIZER) if continues else (weights,)
    described = manifest["files"]
    if weights == ADAPTER:
        with published_directory(run.path / BASE) as staging:
            copy_files(base_of(parent.checkpoint).path, staging)
            verify(CheckpointInfo(0, staging, 0, {}))
    with published_directory(run.checkpoint_directory / f"step-{step:08d}") as staging:
        for file in files:
            shutil.copyfile(source / file, staging / file)
        write_json(staging / STATE, scalars)
        sums = {file: described[file]["sha256"] for file in files}
        write_manifest(staging, step, metrics, sums, manifest.get("base"))
        verify(CheckpointInfo(step, staging, 0, metrics))  # against the checksums of the parent


def state_of_fork(state: dict[str, Any], changed: set[str]) -> dict[str, Any]:
    """The parent's `state.json`, with the fields reset that the changes invalidate."""
    kept = state | {"overrides": {}}
    if changed & PLAN_FIELDS:
        kept["plan"] = None
    if changes_data(changed):
        kept |= {"data_fingerprint": "", "batch_index": 0, "data_cursor": None}
        kept |= {"best_validation_loss": None, "metrics": {}, "spikes": {}}
    elif kept.get("data_cursor") is not None and changed & BATCH_FIELDS:
        kept |= {"batch_index": 0, "data_cursor": None}
    if changed & BATCH_FIELDS - {"train.seed"}:
        kept |= {"rows": 0, "micro_batch": 0}
    return kept


def changes_data(changed: Sequence[str] | set[str]) -> bool:
    return any(path.startswith("data.") and path not in SAFE_DATA_FIELDS for path in changed)


def with_kept_tokenizer(home: Path, parent: Parent, config: RunConfig, changed: set[str]) -> RunConfig:
    """`config` with `tokenizer.path` set to a copy of the parent's tokenizer, if the fork trains on other text: a
    tokenizer trained on that text would not fit the weights."""
    if not changes_data(changed) or config.tokenizer.path or config.tokenizer.kind not in TRAINED_TOKENIZERS:
        return config
    identity = str(parent.run.info().get("id", ""))[:8]
    source = parent.run.path / "tokenizer"
    kept = keep_tokenizer(home, f"{parent.run.name}-{identity}", lambda folder: copy_files(source, folder))
    return with_overrides(config, [("tokenizer.path", str(kept.resolve()))])


def keep_tokenizer(home: Path, name: str, save: Callable[[Path], object]) -> Path:
    """The folder `<home>/tokenizers/NAME`, which outlives the run it comes from; `save` fills it if it does not
    exist."""
    kept = home / "tokenizers" / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with published_directory(kept) as staging:
            save(staging)
    return kept
