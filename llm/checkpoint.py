"""Publish the state of a training run atomically; load and verify one. Only safetensors and JSON."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm.config import RunConfig, resolve_model
from llm.errors import UserError
from llm.files import published_directory, read_json, write_json
from llm.model.transformer import Transformer
from llm.optim import Optimizer
from llm.run import CheckpointInfo, Run, verify
from llm.run.checkpoints import MODEL, OPTIMIZER, STATE, read_checkpoint_info, write_manifest
from llm.tokenizer import Tokenizer, load_tokenizer

FORMAT = 1


@dataclass
class TrainerState:
    """All that changes while training; exactly what a checkpoint brings back.

    `step` counts optimiser steps, `batch_index` batches drawn (a roll-back restores the first, not the second), and
    `data_cursor` is where the next batch begins in a text that is streamed (`BatchSource.cursor`).
    `overrides` holds what differs from `run.toml`, as text by dotted path: live knobs and what a resume changed.
    `accumulation` is 0, or micro-batches per step on each rank, where memory did not suffice for the configured ones.
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
    accumulation: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_validation_loss: float | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    data_fingerprint: str = ""
    data_cursor: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    SCALARS = (
        "step",
        "batch_index",
        "tokens_seen",
        "elapsed",
        "loss_scale",
        "steps_at_scale",
        "accumulation",
        "metrics",
        "best_validation_loss",
        "overrides",
        "plan",
        "data_fingerprint",
        "data_cursor",
    )

    def scalars(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SCALARS}


def save_state(run: Run, state: TrainerState) -> CheckpointInfo:
    """Publish `checkpoints/step-…` and read it back. Raises `OSError` when the disk refuses, `UserError` when weights
    are not finite or what was written is not what is read."""
    weights = to_cpu(state.model.state_dict())
    broken = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None:
        raise UserError(f"{broken} holds values that are not finite, so step {state.step} is not saved.")
    target = run.checkpoint_directory / f"step-{state.step:08d}"
    with published_directory(target) as staging:
        write_tensors(staging / MODEL, weights)
        write_tensors(staging / OPTIMIZER, to_cpu(state.optimizer.state_tensors()))
        write_json(staging / STATE, {"format": FORMAT} | state.scalars())
        write_manifest(staging, state.step, state.metrics)
    info = read_checkpoint_info(target)
    if info is None:
        raise OSError(f"{target} could not be read back")
    verify(info)
    return info


def save_weights(directory: Path, model: Transformer, step: int) -> None:
    """Publish only the weights, for somebody in another process who wants to talk to the model as it is now."""
    with published_directory(directory) as staging:
        write_tensors(staging / MODEL, to_cpu(model.state_dict()))
        write_manifest(staging, step, {})


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file; what the disk refuses is an `OSError`, as of any other file."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def restore_state(state: TrainerState, info: CheckpointInfo) -> None:
    """Bring `state` to what the checkpoint holds, after verifying every file of it.

    A checkpoint without optimiser state (the beginning of a fork that took the weights alone) leaves it empty.
    """
    verify(info)
    scalars = read_json(info.path / STATE)
    if scalars.get("format", 0) > FORMAT:
        raise UserError(f"{info.path} was written by a newer llm-workbench; upgrade to read it.")
    with state.lock:
        load_weights(state.model, info.path)
        if (info.path / OPTIMIZER).exists():
            state.optimizer.load_state_tensors(read_tensors(info.path / OPTIMIZER))
        for name in TrainerState.SCALARS:
            if name in scalars:
                setattr(state, name, scalars[name])


def load_weights(model: Transformer, directory: Path) -> None:
    """Fill `model` from `directory`; every weight must be there, with its shape, and nothing else."""
    tensors = read_tensors(directory / MODEL)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{directory / MODEL} does not fit this configuration: {reason}") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); use another checkpoint of this run.") from error


def build_model(config: RunConfig, vocab_size: int) -> Transformer:
    """The model of a configuration, with uninitialised weights."""
    return Transformer(resolve_model(config.model, vocab_size), attention=config.train.attention)


def load_model(run: Run, info: CheckpointInfo, device: str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a checkpoint, ready to evaluate or to talk to, and its tokenizer."""
    verify(info)
    tokenizer = load_tokenizer(run.path / "tokenizer")
    model = build_model(run.config(), tokenizer.vocab_size)
    load_weights(model, info.path)
    return model.eval().to(device), tokenizer
