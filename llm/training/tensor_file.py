"""Write and read safetensors files.

The writer computes the checksum from the bytes in memory, so that reading the file back detects errors of the disk. It
releases the GIL and can be canceled.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llm.errors import UserError, reason_of
from llm.files import CHUNK

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8  # of the first tensor in the file, for readers that map it


class WriteCanceled(Exception):
    """The write was canceled."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    canceled: threading.Event | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write and fsync the file; returns the sha256 of its content.

    Tensors on other devices are copied one at a time. Raises `OSError`, and `WriteCanceled` soon after `canceled` is
    set.
    """
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in file_chunks(tensors, metadata):
            if canceled is not None and canceled.is_set():
                raise WriteCanceled
            written = 0
            while written < len(piece):  # a write may be partial, for example on a full disk
                written += file.write(piece[written:])
            digest.update(piece)
        os.fsync(file.fileno())
    return digest.hexdigest()


def file_chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[memoryview]:
    """The bytes of the file in chunks: length of the header, header (JSON), tensors.

    They are the same for the same tensors. safetensors' own writer (0.8.0) puts two or more entries of `metadata` in
    another order at every save.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        described[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    header = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for tensor in tensors.values():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. UserError if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}); use another checkpoint of this run.") from error
