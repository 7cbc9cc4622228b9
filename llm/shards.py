"""The part of a tensor that this rank holds.

Under FSDP2 a parameter is a `DTensor` whose rows are spread over the ranks as `torch.chunk` does: rank r of n holds
rows r·⌈rows/n⌉ up to (r+1)·⌈rows/n⌉, the last ones fewer or none. Any other tensor is whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; importing the class would load all of `torch.distributed.tensor`."""
    return hasattr(tensor, "placements")


def local_part(tensor: Tensor) -> Tensor:
    """The rows that this rank holds, as a plain tensor that shares their memory. Call it without gradients."""
    part: Any = tensor
    result: Tensor = part.to_local() if is_sharded(tensor) else tensor
    return result


def held_rows(tensor: Tensor) -> slice:
    """Which rows of the whole tensor `local_part` holds."""
    if not is_sharded(tensor):
        return slice(0, tensor.shape[0] if tensor.ndim else 1)
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    dimension = mesh.ndim - 1  # of the mesh: the last one shards, one before it replicates
    return rows_of(tensor.shape[0], mesh.get_local_rank(dimension), mesh.size(dimension))


def rows_of(rows: int, rank: int, size: int) -> slice:
    """The rows that `rank` of `size` holds."""
    chunk = -(-rows // size)
    return slice(min(rank * chunk, rows), min((rank + 1) * chunk, rows))


@torch.no_grad()
def copy_held(target: Tensor, whole: Tensor) -> None:
    """Copy from `whole` what this rank holds of `target`."""
    if is_sharded(target):
        local_part(target).copy_(whole[held_rows(target)])
    else:
        target.copy_(whole)
