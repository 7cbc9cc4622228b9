"""How ranks share the work of Muon: one rank has all matrices, or each rank orthogonalizes some of them.

Newton–Schulz needs the whole matrix and takes most of Muon's time. With several ranks, each matrix is assigned to one
of them, so that all have about the same work.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from llm.shards import rows_of

Orthogonalize = Callable[[Tensor], Tensor]
"""(n, rows, columns) → the same."""


class Placement(Protocol):
    """Where the matrices are. With `batched`, matrices of one shape are orthogonalized in one call."""

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        """This rank's rows of the orthogonalized `matrices`, given this rank's rows of each."""

    def full_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        """The shapes of the matrices with the rows of all ranks."""


@dataclass(frozen=True)
class OneRank:
    """This rank has all matrices and orthogonalizes all of them."""

    batched: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        results = list(matrices)
        shapes = self.full_shapes(matrices)
        for batch in group_by_shape(shapes) if self.batched else [[i] for i in range(len(matrices))]:
            for i, result in zip(batch, orthogonalize(torch.stack([matrices[i] for i in batch])).unbind(), strict=True):
                results[i] = result
        return results

    def full_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in matrices]


@dataclass(frozen=True)
class Replicated:
    """Every rank has all matrices (DDP) and orthogonalizes its own.

    An all-reduce of tensors that are zero for the matrices of other ranks gives every rank all results, bit for bit the
    same.
    """

    rank: int
    world_size: int
    batched: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        owners = assign_owners(self.full_shapes(matrices), self.world_size)
        owned = [i for i, owner in enumerate(owners) if owner == self.rank]
        flat = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
        parts = torch.split(flat, [matrix.numel() for matrix in matrices])
        results = OneRank(self.batched).apply(orthogonalize, [matrices[i] for i in owned])
        for i, result in zip(owned, results, strict=True):
            parts[i].copy_(result.flatten())
        dist.all_reduce(flat)
        return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]

    def full_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in matrices]


@dataclass(frozen=True)
class Sharded:
    """Every rank of `group` has some rows of each matrix (FSDP); `shapes` are those of the whole matrices.

    One all-to-all sends the rows of each matrix to its owner, a second one returns the rows of the results.
    """

    group: Any
    rank: int
    world_size: int
    shapes: Sequence[tuple[int, ...]]
    batched: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        owners, ranks = assign_owners(self.shapes, self.world_size), range(self.world_size)
        owned = [[i for i, owner in enumerate(owners) if owner == rank] for rank in ranks]
        mine = owned[self.rank]
        outgoing = [[matrices[i] for i in owned[rank]] for rank in ranks]
        incoming = [[self._part_shape(i, rank) for i in mine] for rank in ranks]
        parts = self._exchange(outgoing, incoming, matrices[0])
        whole = [torch.cat([parts[rank][k] for rank in ranks]) for k in range(len(mine))]
        results = OneRank(self.batched).apply(orthogonalize, whole)
        outgoing = [[result[rows_of(len(result), rank, self.world_size)] for result in results] for rank in ranks]
        incoming = [[tuple(matrices[i].shape) for i in owned[rank]] for rank in ranks]
        parts = self._exchange(outgoing, incoming, matrices[0])
        by_index = {i: part for rank in ranks for i, part in zip(owned[rank], parts[rank], strict=True)}
        return [by_index[i] for i in range(len(matrices))]

    def full_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return self.shapes

    def _part_shape(self, matrix: int, rank: int) -> tuple[int, ...]:
        rows = rows_of(self.shapes[matrix][0], rank, self.world_size)
        return (rows.stop - rows.start, *self.shapes[matrix][1:])

    def _exchange(
        self, outgoing: list[list[Tensor]], incoming: list[list[tuple[int, ...]]], like: Tensor
    ) -> list[list[Tensor]]:
        """Send `outgoing[rank]` to each rank; returns what each rank sent, of the shapes `incoming[rank]`."""
        sent = [torch.cat([part.flatten() for part in parts]) if parts else like.new_empty(0) for parts in outgoing]
        sizes = [sum(map(math.prod, shapes)) for shapes in incoming]
        received = like.new_empty(sum(sizes))
        dist.all_to_all_single(received, torch.cat(sent), sizes, [part.numel() for part in sent], group=self.group)
        return [split_by(flat, shapes) for flat, shapes in zip(torch.split(received, sizes), incoming, strict=True)]


def split_by(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Split a flat tensor into consecutive tensors of `shapes`."""
    if not shapes:
        return []
    pieces = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def assign_owners(shapes: Sequence[tuple[int, ...]], world_size: int) -> list[int]:
    """The rank that orthogonalizes each matrix: the largest first, each to the rank with the least work so far."""
    work = [0.0] * world_size
    owners = [0] * len(shapes)
    for i in sorted(range(len(shapes)), key=lambda i: (-cost(shapes[i]), i)):
        owners[i] = min(range(world_size), key=lambda rank: (work[rank], rank))
        work[owners[i]] += cost(shapes[i])
    return owners


def cost(shape: Sequence[int]) -> int:
    """What orthogonalizing a matrix costs, up to a factor: its products multiply it with a square of its short side."""
    return math.prod(shape) * min(shape)


def group_by_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The indices of the matrices of each shape."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, shape in enumerate(shapes):
        groups[shape].append(i)
    return list(groups.values())
