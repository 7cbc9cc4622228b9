"""Build a model from a configuration, and load weights into it."""

from __future__ import annotations

from pathlib import Path

from llm.config import RunConfig, resolve_model
from llm.errors import UserError
from llm.model.transformer import Transformer
from llm.run import CheckpointInfo, Run, verify
from llm.run.checkpoints import MODEL, OPTIMIZER
from llm.run.shapes import MAX_HEADER_BYTES, check_weights
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.training.tensor_file import read_tensors


def build_model(config: RunConfig, vocab_size: int) -> Transformer:
    """The model of a configuration, with uninitialized weights."""
    model = resolve_model(config.model, vocab_size)
    return Transformer(model, kernels=config.train.kernels, recompute=config.train.recompute)


def load_model(run: Run, info: CheckpointInfo, device: str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a checkpoint in evaluation mode, and its tokenizer. Does not read the optimizer state."""
    tokenizer = load_tokenizer(run.path / "tokenizer")
    check_weights(info.path / MODEL, run.config(), tokenizer.vocab_size)
    verify(info, without={OPTIMIZER})
    model = build_model(run.config(), tokenizer.vocab_size)
    load_weights(model, info.path)
    return model.eval().to(device), tokenizer


def load_weights(model: Transformer, directory: Path) -> None:
    """Fill `model` from `directory`. UserError unless the names and shapes of all weights are those of the model."""
    tensors = read_tensors(directory / MODEL)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{directory / MODEL} does not fit this configuration: {reason}") from error


def check_size(path: Path, model: Transformer) -> None:
    """UserError for a file of weights larger than those of `model`, before it is read in full."""
    most = sum(tensor.nbytes for tensor in model.state_dict().values()) + MAX_HEADER_BYTES
    if path.exists() and path.stat().st_size > most:
        raise UserError(f"{path} does not fit this configuration: it is larger than the weights of such a model.")
