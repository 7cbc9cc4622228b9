"""Build a model from a configuration, and load weights into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from llm.config import RunConfig, resolve_model
from llm.errors import UserError
from llm.model.adapters import lora_of, merge
from llm.model.transformer import Transformer
from llm.run import CheckpointInfo, Run, verify
from llm.run.checkpoints import ADAPTER, MODEL, base_of, has_file, verify_weights, weights_file
from llm.run.shapes import MAX_HEADER_BYTES, check_checkpoint
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.training.tensor_file import read_tensors


def build_model(config: RunConfig, vocab_size: int) -> Transformer:
    """The model of a configuration, with uninitialized weights."""
    model = resolve_model(config.model, vocab_size)
    return Transformer(model, kernels=config.train.kernels, recompute=config.train.recompute)


def load_model(run: Run, info: CheckpointInfo, device: str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a checkpoint in evaluation mode, and its tokenizer. Does not read the optimizer state."""
    tokenizer, config = load_tokenizer(run.path / "tokenizer"), run.config()
    weights = read_weights(info, config, tokenizer.vocab_size)
    model = build_model(config, tokenizer.vocab_size)
    fill_model(model, weights, info.path / weights_file(info))
    return model.eval().to(device), tokenizer


def read_weights(info: CheckpointInfo, config: RunConfig, vocab_size: int) -> dict[str, Tensor]:
    """The weights of a checkpoint, verified; adapters are merged into their base. `vocab_size` is the tokenizer's."""
    check_checkpoint(info, config, vocab_size)
    verify_weights(info)
    if not has_file(info, ADAPTER):
        return read_tensors(info.path / MODEL)
    base, trained = read_tensors(base_of(info).path / MODEL), read_tensors(info.path / ADAPTER)
    return merge(base, trained, lora_of(config.tune, vocab_size))


def load_weights(model: Transformer, info: CheckpointInfo) -> None:
    """Fill `model` from a verified checkpoint, adapters and base apart. UserError unless the names and shapes of all
    weights are those of the model."""
    tensors = read_tensors(info.path / weights_file(info))
    if has_file(info, ADAPTER):
        base = base_of(info)
        verify(base)
        tensors |= read_tensors(base.path / MODEL)
    fill_model(model, tensors, info.path / weights_file(info))


def fill_model(model: Transformer, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors`, which were read from `path`. UserError unless their names and shapes are those of the model."""
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit this configuration: {reason}") from error


def check_size(path: Path, model: Transformer) -> None:
    """UserError for a file of weights larger than those of `model`, before it is read in full."""
    most = sum(tensor.nbytes for tensor in model.state_dict().values()) + MAX_HEADER_BYTES
    if path.exists() and path.stat().st_size > most:
        raise UserError(f"{path} does not fit this configuration: it is larger than the weights of such a model.")
