"""Orthogonalize the matrices of Muon on one rank, or each on one of several ranks.

Newton–Schulz needs the whole matrix, and takes most of Muon's time. With several ranks each matrix is therefore
assigned to one of them, so that all have about the same work.
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


class Matrices(Protocol):
    """Orthogonalizes matrices, of which this rank may hold only some rows."""

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        """What this rank holds of the orthogonalized matrices, in the same order."""

    def whole_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        """The shapes of the matrices with all their rows."""


@dataclass(frozen=True)
class OneRank:
    """All matrices on this rank; with `together`, those of one shape at once."""

    together: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        found = list(matrices)
        shapes = self.whole_shapes(matrices)
        for batch in same_shapes(shapes) if self.together else [[i] for i in range(len(matrices))]:
            for i, result in zip(batch, orthogonalize(torch.stack([matrices[i] for i in batch])).unbind(), strict=True):
                found[i] = result
        return found

    def whole_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in matrices]


@dataclass(frozen=True)
class Replicated:
    """Every rank has all matrices (DDP). Each computes its own, and the sum over ranks, in which all others are zero,
    gives every rank all of them, bit for bit the same."""

    rank: int
    size: int
    together: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        owners = assign(self.whole_shapes(matrices), self.size)
        mine = [i for i, owner in enumerate(owners) if owner == self.rank]
        flat = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
        parts = torch.split(flat, [matrix.numel() for matrix in matrices])
        own = OneRank(self.together).apply(orthogonalize, [matrices[i] for i in mine])
        for i, result in zip(mine, own, strict=True):
            parts[i].copy_(result.flatten())
        dist.all_reduce(flat)
        return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]

    def whole_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in matrices]


@dataclass(frozen=True)
class Sharded:
    """Every rank of `group` has some rows of each matrix (FSDP); `shapes` are those of whole matrices. One exchange
    brings each matrix to its owner, a second one brings the results back."""

    group: Any
    rank: int
    size: int
    shapes: Sequence[tuple[int, ...]]
    together: bool = False

    def apply(self, orthogonalize: Orthogonalize, matrices: list[Tensor]) -> list[Tensor]:
        owners, ranks = assign(self.shapes, self.size), range(self.size)
        owned = [[i for i, owner in enumerate(owners) if owner == rank] for rank in ranks]
        mine = owned[self.rank]
        outgoing = [[matrices[i] for i in owned[rank]] for rank in ranks]
        incoming = [[self._part_shape(i, rank) for i in mine] for rank in ranks]
        parts = self._exchange(outgoing, incoming, matrices[0])
        whole = [torch.cat([parts[rank][k] for rank in ranks]) for k in range(len(mine))]
        results = OneRank(self.together).apply(orthogonalize, whole)
        outgoing = [[result[rows_of(len(result), rank, self.size)] for result in results] for rank in ranks]
        incoming = [[tuple(matrices[i].shape) for i in owned[rank]] for rank in ranks]
        parts = self._exchange(outgoing, incoming, matrices[0])
        found = list(matrices)
        for rank in ranks:
            for i, part in zip(owned[rank], parts[rank], strict=True):
                found[i] = part
        return found

    def whole_shapes(self, matrices: list[Tensor]) -> Sequence[tuple[int, ...]]:
        return self.shapes

    def _part_shape(self, matrix: int, rank: int) -> tuple[int, ...]:
        rows = rows_of(self.shapes[matrix][0], rank, self.size)
        return (rows.stop - rows.start, *self.shapes[matrix][1:])

    def _exchange(
        self, outgoing: list[list[Tensor]], incoming: list[list[tuple[int, ...]]], like: Tensor
    ) -> list[list[Tensor]]:
        """Send each rank its list of parts; returns those that come from each rank, of the shapes `incoming`."""
        sent = [torch.cat([part.flatten() for part in parts]) if parts else like.new_empty(0) for parts in outgoing]
        sizes = [sum(map(math.prod, shapes)) for shapes in incoming]
        received = like.new_empty(sum(sizes))
        dist.all_to_all_single(received, torch.cat(sent), sizes, [part.numel() for part in sent], group=self.group)
        return [split_by(flat, shapes) for flat, shapes in zip(torch.split(received, sizes), incoming, strict=True)]


def split_by(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """A flat tensor as tensors of these shapes, one after the other."""
    if not shapes:
        return []
    pieces = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def assign(shapes: Sequence[tuple[int, ...]], size: int) -> list[int]:
    """The rank that orthogonalizes each matrix: the largest first, each to the rank with the least work so far."""
    work = [0.0] * size
    owners = [0] * len(shapes)
    for i in sorted(range(len(shapes)), key=lambda i: (-math.prod(shapes[i]) * min(shapes[i]), i)):
        owner = min(range(size), key=lambda rank: (work[rank], rank))
        owners[i] = owner
        work[owner] += math.prod(shapes[i]) * min(shapes[i])
    return owners


def same_shapes(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The indices of matrices of one shape, for each shape."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, shape in enumerate(shapes):
        found[shape].append(i)
    return list(found.values())
