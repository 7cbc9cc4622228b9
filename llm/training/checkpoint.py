"""Publish a training state as a checkpoint, atomically, and restore it. Only safetensors and JSON."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from llm.errors import UserError
from llm.files import drop_from_page_cache, published_directory, remove_directory, write_json
from llm.run import CheckpointInfo, Run, verify
from llm.run.checkpoints import (
    ADAPTER,
    MODEL,
    OPTIMIZER,
    STATE,
    has_file,
    read_checkpoint_info,
    read_manifest,
    read_state,
    weights_file,
    write_manifest,
)
from llm.training.state import StateCopy, TrainerState
from llm.training.tensor_file import read_tensors, write_tensors
from llm.weights import check_size, load_weights

FORMAT = 1


def publish(
    run: Run, state: StateCopy, canceled: threading.Event | None = None, hurry: threading.Event | None = None
) -> CheckpointInfo:
    """Write `checkpoints/step-…` to a staging directory, rename it, and read it back.

    It is renamed before it is read back, so that a process that is killed while reading has saved its state. Once
    `hurry` is set, nothing more is read back: loading a checkpoint verifies its files in any case.

    Raises `OSError` if writing fails, `UserError` if weights are not finite or the files differ from what was written,
    and `WriteCanceled` soon after `canceled` is set. An unfinished or damaged checkpoint is removed. Safe on any
    thread: it calls no torch function that starts threads.
    """
    bad = next((name for name, tensor in state.weights.items() if not is_finite(tensor)), None)
    if bad is not None:
        raise UserError(f"{bad} holds values that are not finite, so step {state.step} is not saved.")
    target = run.checkpoint_directory / f"step-{state.step:08d}"
    with published_directory(target) as staging:
        write_json(staging / STATE, {"format": FORMAT} | state.scalars)
        weights = ADAPTER if state.base else MODEL
        sums = {
            weights: write_tensors(staging / weights, state.weights, canceled),
            OPTIMIZER: write_tensors(staging / OPTIMIZER, state.optimizer, canceled),
        }
        write_manifest(staging, state.step, state.metrics, sums, state.base)
    return read_back(target, sums, hurry or threading.Event())


class Hurry(Exception):
    """Reading back is to end, since the process may be killed soon."""


def read_back(directory: Path, tensor_files: Iterable[str], hurry: threading.Event) -> CheckpointInfo:
    """Read a new checkpoint from the disk and verify it, until `hurry` is set. `UserError` if a file differs from what
    was written: the checkpoint is removed. `OSError` if it has no valid manifest."""
    info = read_checkpoint_info(directory)
    if info is None:
        raise OSError(f"{directory} could not be read back")

    def check_time(_: int) -> None:
        if hurry.is_set():
            raise Hurry

    try:
        check_time(0)
        for name in tensor_files:
            drop_from_page_cache(directory / name)
        verify(info, check_time)
    except Hurry:
        pass
    except UserError:
        remove_directory(directory)
        raise
    return info


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value of a float32 or float64 tensor is infinite or NaN."""
    return bool(np.isfinite(tensor.detach().cpu().numpy()).all())


def publish_weights(directory: Path, weights: Mapping[str, torch.Tensor], step: int) -> None:
    """Publish only weights, for a chat in another process."""
    with published_directory(directory) as staging:
        sums = {MODEL: write_tensors(staging / MODEL, weights)}
        write_manifest(staging, step, {}, sums)


def restore_state(state: TrainerState, info: CheckpointInfo) -> None:
    """Load a checkpoint into `state` after verifying all its files. UserError if it is damaged or does not fit.

    If the checkpoint has no optimizer state (a fork of weights only), the optimizer of `state` does not change.
    """
    weights = weights_file(info)
    check_size(info.path / weights, state.model)
    verify(info)
    scalars = read_state(info) if has_file(info, STATE) else {}
    if not has_file(info, weights):
        raise UserError(f"{info.path} holds no weights; use another checkpoint of this run.")
    with state.lock:
        if state.sharding is not None:
            load_sharded(state, info)
        else:
            load_weights(state.model, info)
            if has_file(info, OPTIMIZER):
                state.optimizer.load_state_tensors(read_tensors(info.path / OPTIMIZER))
        state.load_scalars(scalars)
        state.base = read_manifest(info.path).get("base", {})


def load_sharded(state: TrainerState, info: CheckpointInfo) -> None:
    """Read this rank's parts of the tensors of a checkpoint."""
    from llm.training.sharding import load_parts  # takes a second to import

    load_parts(info.path / MODEL, state.model.state_dict(), {})
    if has_file(info, OPTIMIZER):
        load_parts(info.path / OPTIMIZER, state.optimizer.state_tensors(), state.optimizer.state_owners())
