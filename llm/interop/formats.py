"""The formats of `export` and `import`: the command, the form and the docs read these tables. Loads no format until it
is used, and no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
        """Why a model does not fit the format, and the field that would change that; "" where it fits."""
        width = shape.embedding_conv
        reason = self.load().problem(replace(shape, embedding_conv=0), tokenizer)
        if not width or self.module == "plain":
            return reason
        found = f"model.embedding_conv is {width}, and no other program has that"
        return f"{found}; {reason}" if reason else f"{found}; train a new model with --model.embedding_conv 0"


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


def fitting_formats(shape: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """The names of the formats that a model fits."""
    return [name for name, format in FORMATS.items() if not format.problem(shape, tokenizer)]


def in_words(names: Sequence[str]) -> str:
    """ "hf, gguf and safetensors"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


READABLE = (
    "a Hugging Face folder (config.json), a checkpoint of nanoGPT (ckpt.pt) or nanochat (a folder with model_STEP.pt), "
    "or a model of llama2.c (.bin)"
)
"""What `import` reads."""
