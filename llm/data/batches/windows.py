"""Batches as a pure function of (seed, i): nothing is stored, so any batch can be computed at any time.

Batch i of all ranks is `rows` windows of the token sequence; micro-batches and ranks are slices of its rows. A
window of T tokens at start s is read as T + 1 tokens: inputs [s, s + T) and targets [s + 1, s + T + 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm.data.tokens.shards import TokenSplit, check_length
from llm.errors import UserError

Order = Literal["random", "epoch", "sequential", "stream"]
Int64 = NDArray[np.int64]
Reorder: TypeAlias = "Callable[[Int64, int], Int64]"
"""A permutation of the items of an epoch, applied to some of their indices: (indices, epoch) → indices."""
FEISTEL_ROUNDS = 6


class Batches:
    """Windows of a token sequence, `rows` to a batch.

    random: starts uniform in [0, L - T). epoch: every window (a multiple of `stride`) once per epoch, each epoch
    shuffled by its own keyed permutation; a batch may span two epochs, unless `drop_last` drops the incomplete last
    batch of each epoch. sequential, stream: in order, repeated. `stride` 0 means the sequence length: windows do not
    overlap. UserError if the split is too short.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        rows: int,
        seq_len: int,
        seed: int,
        order: Order = "random",
        stride: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_length(split, seq_len)
        self.split, self.seq_len, self.seed, self.order = split, seq_len, seed, order
        self.rows_per_batch = rows
        self.rank_rows = share_of_rank(rows, rank, ranks)
        self.stride = stride or seq_len
        self.windows = (len(split) - seq_len - 1) // self.stride + 1
        self.per_pass = self.windows
        if drop_last and order == "epoch":
            self.per_pass -= self.windows % rows
            check_rows(self.windows, rows)

    def batch(self, i: int) -> tuple[Int64, Int64]:
        """The rows of batch i of this rank: inputs and targets, int64 (rows, seq_len)."""
        return read_windows(self.split, self.starts(i)[self.rank_rows], self.seq_len)

    def num_targets(self, i: int) -> int:
        """0: no target is ignored."""
        return 0

    def cursor(self, i: int) -> None:
        """None: batch i is a function of i."""

    def starts(self, i: int) -> Int64:
        """The starts of the windows of batch i, int64 (rows,)."""
        if self.order == "random":
            return random_starts(self.seed, i, self.rows_per_batch, len(self.split) - self.seq_len)
        reorder = self._reorder if self.order == "epoch" else None
        return batch_indices(i, self.rows_per_batch, self.per_pass, reorder) * self.stride

    def _reorder(self, index: Int64, epoch: int) -> Int64:
        return permute(index, self.windows, self.seed, epoch)


def share_of_rank(count: int, rank: int, ranks: int) -> slice:
    """The part of `count` rows or streams that belongs to one of `ranks` ranks."""
    return slice(rank * count // ranks, (rank + 1) * count // ranks)


def batch_indices(i: int, rows: int, per_pass: int, reorder: Reorder | None) -> Int64:
    """The indices of batch i, int64 (rows,), among `per_pass` items that are repeated endlessly; `reorder` permutes
    those of each epoch."""
    position = i * rows + np.arange(rows, dtype=np.int64)
    index, epochs = position % per_pass, position // per_pass
    if reorder is not None:
        for epoch in np.unique(epochs):
            index[epochs == epoch] = reorder(index[epochs == epoch], int(epoch))
    return index


def check_rows(windows: int, rows: int) -> None:
    """UserError if a batch needs more windows than there are: drop_last would leave nothing."""
    if windows < rows:
        raise UserError(
            f"The training text gives {windows} windows, fewer than one batch of {rows}; give more text, a smaller "
            "train.batch_size, or set data.drop_last to false."
        )


def read_windows(split: TokenSplit, starts: Int64, seq_len: int) -> tuple[Int64, Int64]:
    """The windows at `starts`: inputs and targets, int64 (len(starts), seq_len)."""
    tokens = np.empty((len(starts), seq_len + 1), dtype=np.int64)
    for row, start in enumerate(starts):
        tokens[row] = split.read(int(start), int(start) + seq_len + 1)
    return tokens[:, :-1], tokens[:, 1:]


def evaluation_windows(split: TokenSplit, seq_len: int, count: int) -> Int64:
    """Starts of `count` windows that do not overlap, evenly spread over the split; 0 or too many gives all."""
    check_length(split, seq_len)
    windows = (len(split) - 1) // seq_len
    count = min(count, windows) or windows
    return np.arange(count, dtype=np.int64) * windows // count * seq_len


def random_starts(seed: int, i: int, count: int, below: int) -> Int64:
    """`count` integers uniform in [0, below), from Philox keyed by the seed with i in the counter's high word.

    The raw 64-bit draws are scaled here because numpy guarantees the same raw stream in every version, but not the
    same `integers`. (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".)
    """
    raw = np.random.Philox(key=seed, counter=[0, 0, 0, i]).random_raw(count)
    return np.array([int(draw) * below >> 64 for draw in raw], dtype=np.int64)


def permute(index: Int64, size: int, seed: int, epoch: int) -> Int64:
    """A bijection of [0, size), keyed by (seed, epoch), applied to each index; nothing is stored.

    A balanced Feistel network over the next even power of two, repeated until the value is below `size` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(4, (int(size - 1).bit_length() + 1) // 2))
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * FEISTEL_ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8")
    value = index.astype(np.uint64)
    outside = np.ones(len(value), dtype=bool)
    while outside.any():
        value[outside] = feistel(value[outside], half, keys)
        outside = value >= size
    return value.astype(np.int64)


def feistel(value: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the integers below 2^(2·half)."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return left << half | right


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every output bit depends on every input bit."""
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)
