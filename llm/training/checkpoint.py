"""Publish the state of a training run atomically; load and verify one. Only safetensors and JSON."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.config import RunConfig, resolve_model
from llm.errors import UserError
from llm.files import drop_from_page_cache, published_directory, write_json
from llm.limits import memory
from llm.model.transformer import Transformer
from llm.optim import Optimizer
from llm.run import CheckpointInfo, Run, verify
from llm.run.checkpoints import MODEL, OPTIMIZER, STATE, has_file, read_checkpoint_info, read_state, write_manifest
from llm.run.shapes import MAX_HEADER_BYTES, check_weights
from llm.run.tensorfile import read_tensors, write_tensors
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.training.spikes import SpikeDetector

FORMAT = 1


@dataclass
class TrainerState:
    """All that changes while training; exactly what a checkpoint brings back.

    `step` counts optimiser steps, `batch_index` batches drawn (a roll-back restores the first, not the second), and
    `data_cursor` is where the next batch begins in a text that is streamed (`BatchSource.cursor`).
    `overrides` holds what differs from `run.toml`, as text by dotted path: live knobs and what a resume changed.
    `spikes` are the losses of the last steps, against which the next is judged.
    `rows` are the sequences of a step, all ranks together, as the run began: another number of ranks shares the same.
    `micro_batch` is 0, or sequences per micro-batch where memory did not suffice for `train.batch_size`.
    `lock` guards the weights and `step`: the optimiser step and whoever copies them take it.
    """

    model: Transformer
    optimizer: Optimizer
    step: int = 0
    batch_index: int = 0
    tokens_seen: int = 0
    elapsed: float = 0.0
    loss_scale: float = 1.0
    steps_at_scale: int = 0
    rows: int = 0
    micro_batch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_validation_loss: float | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    data_fingerprint: str = ""
    data_cursor: Any = None
    spikes: SpikeDetector = field(default_factory=SpikeDetector)
    lock: threading.Lock = field(default_factory=threading.Lock)

    SCALARS = (
        "step",
        "batch_index",
        "tokens_seen",
        "elapsed",
        "loss_scale",
        "steps_at_scale",
        "rows",
        "micro_batch",
        "metrics",
        "best_validation_loss",
        "overrides",
        "plan",
        "data_fingerprint",
        "data_cursor",
    )

    def scalars(self) -> dict[str, Any]:
        """All but the tensors, as JSON values."""
        return {name: getattr(self, name) for name in self.SCALARS} | {"spikes": self.spikes.as_json()}


class HostMemory:
    """Room on the host for one copy of a state's weights and optimiser state.

    It is taken once and kept, for pages that are new to a process cost ten times what copying into them does. Beside a
    GPU it is pinned, which the bus fills several times faster; torch rounds each pinned tensor up to a power of two.

    MemoryError where there is no room for it, which is found out before taking any: a process that exceeds the limit of
    its control group is ended without an error.
    """

    def __init__(self, state: TrainerState) -> None:
        tensors = (*state.model.state_dict().values(), *state.optimizer.state_tensors().values())
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if needed > memory().available:
            raise MemoryError(f"a copy of the state needs {needed} bytes")
        self.weights = room_for(state.model.state_dict())
        self.optimizer = room_for(state.optimizer.state_tensors())

    def fill(self, state: TrainerState) -> None:
        """Copy the state as it is now; returns when all of it has arrived."""
        for room, tensors in (
            (self.weights, state.model.state_dict()),
            (self.optimizer, state.optimizer.state_tensors()),
        ):
            for name, tensor in tensors.items():
                room[name].copy_(tensor, non_blocking=True)
        if state.optimizer.step_count.is_cuda:
            torch.cuda.current_stream().synchronize()


def room_for(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Memory like `tensors`, every page of it in hand; no torch operation touches it, which would start threads."""
    room = {}
    for name, tensor in tensors.items():
        room[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        room[name].reshape(-1).view(torch.uint8).numpy().fill(0)
    return room


@dataclass(frozen=True)
class StateCopy:
    """What a checkpoint holds: a state as it stood between two steps."""

    step: int
    metrics: dict[str, float]
    scalars: dict[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def copy_state(state: TrainerState, memory: HostMemory | None) -> StateCopy:
    """The state, copied into `memory`; without one its own tensors, which must then not move until all is written."""
    if memory is not None:
        memory.fill(state)
    return StateCopy(
        state.step,
        dict(state.metrics),
        copy.deepcopy(state.scalars()),
        state.model.state_dict() if memory is None else memory.weights,
        state.optimizer.state_tensors() if memory is None else memory.optimizer,
    )


def publish(run: Run, state: StateCopy, unwanted: threading.Event | None = None) -> CheckpointInfo:
    """Write `checkpoints/step-…`, read it back, and only then give it its name.

    Raises `OSError` when the disk refuses, `UserError` when weights are not finite or what was written is not what is
    read, `BrokenOff` soon after `unwanted` was set; then nothing of it remains. Meant to be called on any thread: of
    torch it uses nothing that starts threads.
    """
    broken = next((name for name, tensor in state.weights.items() if not is_finite(tensor)), None)
    if broken is not None:
        raise UserError(f"{broken} holds values that are not finite, so step {state.step} is not saved.")
    target = run.checkpoint_directory / f"step-{state.step:08d}"
    with published_directory(target) as staging:
        write_json(staging / STATE, {"format": FORMAT} | state.scalars)
        sums = {
            MODEL: write_tensors(staging / MODEL, state.weights, unwanted),
            OPTIMIZER: write_tensors(staging / OPTIMIZER, state.optimizer, unwanted),
        }
        write_manifest(staging, state.step, state.metrics, sums)
        for name in sums:
            drop_from_page_cache(staging / name)
        verify(CheckpointInfo(state.step, staging, 0, {}))
    info = read_checkpoint_info(target)
    if info is None:
        raise OSError(f"{target} could not be read back")
    return info


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value of a float32 or float64 tensor is infinite or NaN."""
    return bool(np.isfinite(tensor.detach().cpu().numpy()).all())


def publish_weights(directory: Path, model: Transformer, step: int) -> None:
    """Publish only the weights, for somebody in another process who wants to talk to the model as it is now."""
    with published_directory(directory) as staging:
        sums = {MODEL: write_tensors(staging / MODEL, model.state_dict())}
        write_manifest(staging, step, {}, sums)


def restore_state(state: TrainerState, info: CheckpointInfo) -> None:
    """Bring `state` to what the checkpoint holds, after verifying every file of it.

    A checkpoint without optimiser state (the beginning of a fork that took the weights alone) leaves it empty.
    """
    check_size(info.path / MODEL, state.model)
    verify(info)
    scalars = read_state(info) if has_file(info, STATE) else {}
    if not has_file(info, MODEL):
        raise UserError(f"{info.path} holds no weights; use another checkpoint of this run.")
    with state.lock:
        load_weights(state.model, info.path)
        if has_file(info, OPTIMIZER):
            state.optimizer.load_state_tensors(read_tensors(info.path / OPTIMIZER))
        for name in TrainerState.SCALARS:
            if name in scalars:
                setattr(state, name, scalars[name])
        state.spikes = SpikeDetector.from_json(scalars.get("spikes", {}))


def check_size(path: Path, model: Transformer) -> None:
    """UserError where a file of weights is larger than those of `model` can be; it would be read in full in vain."""
    most = sum(tensor.nbytes for tensor in model.state_dict().values()) + MAX_HEADER_BYTES
    if path.exists() and path.stat().st_size > most:
        raise UserError(f"{path} does not fit this configuration: it is larger than the weights of such a model.")


def load_weights(model: Transformer, directory: Path) -> None:
    """Fill `model` from `directory`; every weight must be there, with its shape, and nothing else."""
    tensors = read_tensors(directory / MODEL)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{directory / MODEL} does not fit this configuration: {reason}") from error


def build_model(config: RunConfig, vocab_size: int) -> Transformer:
    """The model of a configuration, with uninitialised weights."""
    return Transformer(resolve_model(config.model, vocab_size), kernels=config.train.kernels)


def load_model(run: Run, info: CheckpointInfo, device: str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a checkpoint, ready to evaluate or to talk to, and its tokenizer. The optimiser's state, twice as
    large, is not looked at."""
    tokenizer = load_tokenizer(run.path / "tokenizer")
    check_weights(info.path / MODEL, run.config(), tokenizer.vocab_size)
    verify(info, without={OPTIMIZER})
    model = build_model(run.config(), tokenizer.vocab_size)
    load_weights(model, info.path)
    return model.eval().to(device), tokenizer
