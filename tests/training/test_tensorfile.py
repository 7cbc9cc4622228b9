"""Our safetensors files as the library that defines them reads them."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llm.errors import UserError
from llm.training.tensor_file import DTYPES, WriteCanceled, read_tensors, write_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    some = {f"of.{name}": torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype, name in DTYPES.items()}
    return some | {
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "naïve “name”": torch.randn(2, generator=generator),
        "larger than a piece": torch.randn(1 << 21, generator=generator),
    }


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    path, written = tmp_path / "x.safetensors", tensors()
    checksum = write_tensors(path, written)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum
    for read in (load_file(path), read_tensors(path)):
        assert read.keys() == written.keys()
        assert all(read[name].equal(tensor) and read[name].dtype == tensor.dtype for name, tensor in written.items())
    with safe_open(path, framework="pt") as file:
        assert file.get_slice("transposed").get_shape() == [6, 4]


def test_a_canceled_download_ends_in_the_middle_of_a_file(tmp_path: Path) -> None:
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(WriteCanceled):
        write_tensors(tmp_path / "x.safetensors", tensors(), unwanted)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read"):
        read_tensors(path)
