"""Tensors in a safetensors file: read by the library, written here.

It is written here so that its checksum is that of the bytes in memory: a disk, or a cable, that changes them on the way
is found out when the file is read back. Writing also lets go of the interpreter lock, and can be broken off.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llm.errors import UserError
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


class BrokenOff(Exception):
    """Whoever asked for a file no longer wants it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], unwanted: threading.Event | None = None) -> str:
    """Write the file through to the disk; returns the sha256 of what should now be in it.

    Tensors on other devices are fetched one at a time. Raises `OSError` when the disk refuses, and `BrokenOff` soon
    after `unwanted` was set.
    """
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in pieces_of(tensors):
            if unwanted is not None and unwanted.is_set():
                raise BrokenOff
            written = 0
            while written < len(piece):  # the kernel may take a part of it: what remains may not fit on the disk
                written += file.write(piece[written:])
            digest.update(piece)
        os.fsync(file.fileno())
    return digest.hexdigest()


def pieces_of(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of the file in order, a few megabytes at a time: length of the header, header (JSON), tensors."""
    described, end = {}, 0
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
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); use another checkpoint of this run.") from error
