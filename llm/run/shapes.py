"""The header of a safetensors file, compared with a configuration before a model is built.

Format: 8 bytes, the length of the header (little-endian); the header, JSON; then the tensors. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import RunConfig, resolve_model
from llm.errors import UserError
from llm.model.counts import parameters, trained_parameters
from llm.reader import WRONG_SHAPE, Malformed, open_file, parse_json
from llm.run.checkpoints import ADAPTER, MODEL, CheckpointInfo, base_of, has_file

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 64 << 20
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "U8": 8, "BOOL": 8}
"""Bits per number, for the dtypes that a checkpoint may hold."""
OTHER_BITS = {"U64": 64, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}
"""Bits per number, for dtypes that occur only in files of other programs."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(
    path: Path, advice: str = "use another checkpoint of this run", bits_of: Mapping[str, int] = BITS
) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file by name. UserError where the header is invalid, does not fit the file, or has a
    dtype that is not in `bits_of`."""
    try:
        with open_file(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise Malformed("its header is cut off or too long")
            record = parse_json(file.read(length), MAX_HEADER_BYTES)
        entries = {name: entry_of(value, bits_of) for name, value in record.items() if name != "__metadata__"}
        bits = sum(bits_of[entry.dtype] * entry.numel for entry in entries.values())
        if size != LENGTH_BYTES + length + bits // 8:
            raise Malformed(f"its header describes {bits // 8:,} bytes of tensors, but there are {size - length - 8:,}")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except WRONG_SHAPE as error:
        reason = str(error) if isinstance(error, Malformed) else "its header is not that of a safetensors file"
        raise UserError(f"{path} is damaged ({reason}); {advice}.") from error
    return entries


def entry_of(value: Any, bits_of: Mapping[str, int]) -> TensorEntry:
    """The tensor of a header entry. Raises one of `WRONG_SHAPE` for an invalid entry."""
    shape = value["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise TypeError("no shape")
    if len(shape) > 8 or value["dtype"] not in bits_of:
        raise TypeError("no tensor of a model")
    return TensorEntry(value["dtype"], tuple(shape))


def check_checkpoint(info: CheckpointInfo, config: RunConfig, vocab_size: int) -> None:
    """UserError unless the weights of a checkpoint, or its adapters and their base, have the sizes of `config`."""
    if not has_file(info, ADAPTER):
        check_weights(info.path / MODEL, config, vocab_size)
        return
    check_weights(base_of(info).path / MODEL, config, vocab_size)
    expected = sum(trained_parameters(resolve_model(config.model, vocab_size), config.tune).values())
    numel = sum(entry.numel for entry in read_header(info.path / ADAPTER).values())
    if not config.tune.lora_rank or numel != expected:
        needed = f"{expected:,} numbers" if config.tune.lora_rank else "no adapters"
        raise UserError(
            f"{info.path / ADAPTER} does not fit this configuration: it holds {numel:,} numbers, not {needed}; restore "
            "run.toml."
        )


def check_weights(path: Path, config: RunConfig, vocab_size: int) -> None:
    """UserError unless the weights in `path` have as many layers and parameters as `config`.

    Reads only the header, before the model is allocated.
    """
    model = resolve_model(config.model, vocab_size)
    entries = read_header(path)
    layers = len({name.split(".")[1] for name in entries if name.startswith("blocks.") and name.count(".") > 1})
    numel, expected = sum(entry.numel for entry in entries.values()), parameters(model)
    if layers != model.n_layer or numel != expected:
        raise UserError(
            f"{path} does not fit this configuration: it holds {numel:,} numbers in {layers:,} layers, not "
            f"{expected:,} in {model.n_layer:,}; restore run.toml and the tokenizer."
        )
