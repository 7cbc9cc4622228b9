"""What an export reads: the weights, the tokenizer and the configuration of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import RunConfig, resolve_model
from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from llm.run.fork import parent_at
from llm.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """A checkpoint to export. `shape` is the resolved model, `state` the content of `state.json`."""

    run: Run
    info: CheckpointInfo
    config: RunConfig
    shape: ModelConfig
    tokenizer: Tokenizer
    state: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.run.name}@{self.info.step}"

    def weights(self) -> dict[str, Tensor]:
        """The weights by our names, read from the checkpoint and verified; adapters are merged."""
        from llm.weights import read_weights

        return read_weights(self.info, self.config, self.tokenizer.vocab_size)


def open_source(run: Run, info: CheckpointInfo) -> Source:
    """Everything but the weights of a checkpoint."""
    tokenizer = load_tokenizer(run.path / "tokenizer")
    at = parent_at(run, info)
    return Source(run, info, at.config, resolve_model(at.config.model, tokenizer.vocab_size), tokenizer, at.state)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype named f32, f16 or bf16."""
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name]


def to_dtype(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """`tensor` in `dtype`; UserError where a value is not finite or too large for it. `name` is for the message."""
    import torch

    converted = tensor.to(torch_dtype(dtype))
    if not bool(torch.isfinite(converted).all()):
        if bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name} holds a value that {dtype} cannot hold; export with --dtype bf16 or f32.")
        raise UserError(f"{name} holds values that are not finite; use another checkpoint.")
    return converted


def end_token_id(tokenizer: Tokenizer) -> int | None:
    """The one id that ends a text or an answer, for formats that name one: not the separator where there is another
    (</s> of SentencePiece, the end of a turn of a chat template)."""
    others = tokenizer.stop_ids - {tokenizer.separator}
    return min(others, default=tokenizer.separator)


def eos_token_ids(tokenizer: Tokenizer) -> int | list[int] | None:
    """`eos_token_id` of transformers: all ids that end a text or an answer, as a list where there are several."""
    ids = sorted(tokenizer.stop_ids)
    return ids[0] if len(ids) == 1 else ids or None


def default_folder(home: Path, source: Source, format: str, dtype: str) -> Path:
    """The default folder of an export."""
    return home / "exports" / f"{source.run.name}-{source.info.step}-{format}-{dtype}"
