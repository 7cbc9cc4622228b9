"""One safetensors file of weights by our names, with the tokenizer and the configuration next to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm.config.schema import ModelConfig
from llm.events import Progress
from llm.interop.hf import write_shards
from llm.interop.model_card import RECIPE, model_card, recipe
from llm.interop.source import Source
from llm.tokenizer import Tokenizer

USAGE = """## Files

`model.safetensors` holds the weights by the names of llm-workbench, `tokenizer/` its tokenizer.
"""


def problem(shape: ModelConfig, tokenizer: Tokenizer) -> str:
    """Every model fits."""
    return ""


def write(source: Source, folder: Path, dtype: str) -> Iterator[Progress]:
    """Write model.safetensors, tokenizer/, run.toml and README.md."""
    source.tokenizer.save(folder / "tokenizer")
    (folder / RECIPE).write_bytes(recipe(source.config))
    (folder / "README.md").write_bytes(model_card(source, "llm-workbench", USAGE))
    yield from write_shards(source.weights(), folder, dtype, shard_bytes=1 << 62)
