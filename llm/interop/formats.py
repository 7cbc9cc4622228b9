"""The formats of `export` and `import`: the command, the form and the docs read these tables. Loads no format until it
is used, and no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from llm.config.schema import ModelConfig
    from llm.events import Progress
    from llm.interop.source import Source
    from llm.tokenizer import Tokenizer


class FormatModule(Protocol):
    """What a module of `llm.interop` with an export has."""

    def problem(self, shape: ModelConfig, tokenizer: Tokenizer) -> str:
        """Why a model does not fit the format; "" where it does."""

    def write(self, source: Source, folder: Path, dtype: str) -> Iterator[Progress]:
        """Fill an empty folder."""


@dataclass(frozen=True)
class Format:
    """A format to export to. `module` is its module in `llm.interop`; the first of `dtypes` is the default."""

    name: str
    about: str
    dtypes: tuple[str, ...]
    module: str

    def load(self) -> FormatModule:
        return cast(FormatModule, importlib.import_module(f"llm.interop.{self.module}"))

    def problem(self, shape: ModelConfig, tokenizer: Tokenizer) -> str:
        """Why a model does not fit the format; "" where it does."""
        if shape.embedding_conv and self.module != "plain":
            field = f"model.embedding_conv is {shape.embedding_conv}"
            return f"{field}, and no other program has that; export to safetensors, or train with it at 0"
        return self.load().problem(shape, tokenizer)


FLOATS = ("f32", "f16", "bf16")
FORMATS = {
    format.name: format
    for format in (
        Format("hf", "Hugging Face folder for transformers, vLLM and others", FLOATS, "hf"),
        Format("gguf", "file for llama.cpp, Ollama and others", ("f16", "f32", "bf16", "q8_0", "q4_0"), "gguf"),
        Format("llama2c", "files for run.c and runq.c of llama2.c", ("f32", "int8"), "llama2c"),
        Format("nanogpt", "ckpt.pt for sample.py of nanoGPT", FLOATS, "nanogpt"),
        Format("safetensors", "weights by our own names", FLOATS, "plain"),
    )
}
"""By name."""

READABLE = (
    "a Hugging Face folder (config.json), a checkpoint of nanoGPT (ckpt.pt) or nanochat (a folder with model_STEP.pt), "
    "or a model of llama2.c (.bin)"
)
"""What `import` reads."""
