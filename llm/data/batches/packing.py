"""Batches of conversations: several per row, packed once, so that batch i is a function of (seed, i).

A conversation of n tokens takes n - 1 positions of a row: inputs are all tokens but the last, targets all but the
first, with -1 where the target is ignored. The rest of a row is padding, whose targets are -1.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.data.batches.windows import Order, batch_indices, check_rows, random_starts, share_of_rank
from llm.data.tokens.conversation_tokens import COUNTED, ConversationTokens, conversation_spans

IGNORE_INDEX = -1  # as in llm.model.loss, which imports torch
Packing = Literal["documents", "plain", "off"]
Int64 = NDArray[np.int64]


class PackedRows:
    """The rows of a split of conversations. `rows` is their number, and `num_targets` the number of targets of
    each row that are not ignored."""

    def __init__(self, split: ConversationTokens, seq_len: int, packing: Packing) -> None:
        self.split, self.seq_len, self.packing = split, seq_len, packing
        self._marks = split.read_marks()
        self.spans = conversation_spans(self._marks, seq_len)
        sizes = self.spans.lengths - 1
        self.bins = [[index] for index in range(len(sizes))] if packing == "off" else pack(sizes.tolist(), seq_len)
        self.num_targets = np.array([self.spans.counted[row].sum() for row in self.bins], dtype=np.int64)

    @property
    def rows(self) -> int:
        return len(self.bins)

    def read(self, rows: Int64) -> tuple[Int64, ...]:
        """The arguments of the loss, int64 (len(rows), seq_len) each: inputs, targets and, for packing by documents,
        the position of each token in its conversation."""
        shape = (len(rows), self.seq_len)
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX, np.int64)
        positions = np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            filled = 0
            for index in self.bins[int(row)]:
                start, length = int(self.spans.starts[index]), int(self.spans.lengths[index])
                stop = filled + length - 1
                read = read_conversation(self.split, self._marks, start, length)
                inputs[place, filled:stop], targets[place, filled:stop] = read
                positions[place, filled:stop] = np.arange(length - 1)
                filled = stop
            positions[place, filled:] = np.arange(self.seq_len - filled)
        return (inputs, targets, positions) if self.packing == "documents" else (inputs, targets)


def read_conversation(split: ConversationTokens, marks: NDArray[Any], start: int, length: int) -> tuple[Int64, Int64]:
    """Inputs and targets, int64 (length - 1,) each, of the conversation of `length` tokens at `start`."""
    ids = split.read(start, start + length).astype(np.int64)
    is_counted = marks[start + 1 : start + length] & COUNTED > 0
    return ids[:-1], np.where(is_counted, ids[1:], IGNORE_INDEX)


class Rows(Protocol):
    """Rows by their numbers."""

    @property
    def rows(self) -> int:
        """Their number."""

    @property
    def num_targets(self) -> Int64:
        """The number of targets of each row that are not ignored, int64 (rows,); 0 where the loss is not a mean over
        targets."""

    def read(self, rows: Int64) -> tuple[NDArray[Any], ...]:
        """The arguments of the loss for these rows."""


class PackedBatches:
    """A BatchSource of packed rows or pairs, in the orders of `Batches`: an epoch is every row once."""

    def __init__(
        self,
        packed: Rows,
        *,
        rows: int,
        seed: int,
        order: Order = "epoch",
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.packed, self.rows_per_batch, self.seed, self.order = packed, rows, seed, order
        self.rank_rows = share_of_rank(rows, rank, ranks)
        self.per_pass = packed.rows
        if drop_last and order == "epoch":
            self.per_pass -= packed.rows % rows
            check_rows(packed.rows, rows)

    def batch(self, i: int) -> tuple[NDArray[Any], ...]:
        """The arguments of the loss for the rows of batch i of this rank."""
        return self.packed.read(self.numbers(i)[self.rank_rows])

    def num_targets(self, i: int) -> int:
        """The number of targets of batch i over all ranks that are not ignored."""
        return int(self.packed.num_targets[self.numbers(i)].sum())

    def cursor(self, i: int) -> None:
        """None: batch i is a function of i."""

    def numbers(self, i: int) -> Int64:
        """The numbers of the packed rows of batch i, int64 (rows,)."""
        if self.order == "random":
            return random_starts(self.seed, i, self.rows_per_batch, self.packed.rows)
        reorder = self._reorder if self.order == "epoch" else None
        return batch_indices(i, self.rows_per_batch, self.per_pass, reorder)

    def _reorder(self, index: Int64, epoch: int) -> Int64:
        return permutation(self.packed.rows, self.seed, epoch)[index]


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> Int64:
    """A permutation of [0, count), drawn from Philox keyed by the seed with the epoch in its counter."""
    raw = np.random.Philox(key=seed, counter=[0, 0, 1, epoch]).random_raw(count)
    return np.argsort(raw, kind="stable")


def pack(sizes: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the indices of `sizes` in bins of at most `capacity`, each in the order of the corpus.

    The largest first, each into the fullest bin that has room. At most 11/9 of the fewest bins (Johnson 1973).
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free places, bin), sorted
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        place = bisect_left(room, (sizes[index], -1))
        if place == len(room):
            bins.append([])
            free, number = capacity, len(bins) - 1
        else:
            free, number = room.pop(place)
        bins[number].append(index)
        if free > sizes[index]:
            insort(room, (free - sizes[index], number))
    return [sorted(row) for row in bins]
