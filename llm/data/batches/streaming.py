"""Parquet files read and tokenized during training: row groups fill a buffer, and batches are cut from it in order.

Row group g of the corpus belongs to stream g mod S. A stream repeats its row groups endlessly. Each batch has the same
number of rows from every stream, in the order of the streams, so that a rank reads only the row groups of its own
streams. A position is (row groups started, tokens used of the last one). It is exact, because tokenizing a row group
again gives the same tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.data.batches.windows import share_of_rank
from llm.data.text.parquet import RowGroups
from llm.data.tokens.tokenize import Boundary, borders_of
from llm.errors import ConfigError, Problem, UserError
from llm.tokenizer import Tokenizer

Int64 = NDArray[np.int64]
CURSOR_HISTORY = 16  # more than a prefetcher computes ahead


class Position(NamedTuple):
    """A position in a stream: `group` counts row groups across epochs, `taken` the tokens used of that group."""

    group: int
    taken: int


class Stream:
    """An endless sequence of tokens from `position`: row groups `first`, `first + step`, …, repeated."""

    def __init__(
        self,
        text: RowGroups,
        tokenizer: Tokenizer,
        boundary: Boundary,
        *,
        first: int,
        step: int,
        position: Position,
    ) -> None:
        self._text, self._tokenizer = text, tokenizer
        self._numbers = range(first, len(text.groups), step)
        self._borders = borders_of(tokenizer, boundary)
        self._next = position.group
        self._skip = position.taken
        self._buffer: deque[tuple[int, Int64]] = deque()  # (row group, its remaining tokens)
        self._lengths: dict[int, int] = {}  # row group -> number of its tokens

    def take(self, count: int) -> Int64:
        """The next `count` tokens and, as the last target, the one after them: int64 (count + 1,)."""
        while sum(len(tokens) for _, tokens in self._buffer) <= count:
            self._read()
        parts: list[Int64] = []
        needed = count
        while needed:
            group, tokens = self._buffer.popleft()
            parts.append(tokens[:needed])
            needed -= len(parts[-1])
            if len(tokens) > len(parts[-1]):
                self._buffer.appendleft((group, tokens[len(parts[-1]) :]))
            else:
                del self._lengths[group]
        _, following = self._buffer[0]
        return np.concatenate([*parts, following[:1]])

    @property
    def position(self) -> Position:
        """The position of the next `take`."""
        if not self._buffer:
            return Position(self._next, self._skip)
        group, tokens = self._buffer[0]
        return Position(group, self._lengths[group] - len(tokens))

    def _read(self) -> None:
        """Tokenize the next row group that has text."""
        for _ in self._numbers:
            group, skip = self._next, self._skip
            self._next, self._skip = group + 1, 0
            tokens = self._tokenize(self._numbers[group % len(self._numbers)])
            if len(tokens) > skip:
                self._lengths[group] = len(tokens)
                self._buffer.append((group, tokens[skip:]))
                return
        raise UserError(
            f"There is no text in the column {self._text.text_field!r} of the corpus; check data.text_field."
        )

    def _tokenize(self, number: int) -> Int64:
        texts = ["".join(document.pieces) for document in self._text.documents(number)]
        before, after = (np.array(ids, dtype=np.int64) for ids in self._borders)
        parts = [part for ids in self._tokenizer.encode_batch(texts) for part in (before, ids, after)]
        return np.concatenate(parts, dtype=np.int64) if parts else before[:0]


class StreamedBatches:
    """A BatchSource over streams of row groups. Batches are sequential: batch i is available only after batch i - 1.

    A batch has `rows` rows, the same number from each of `streams` (0: see `resolve_streams`). `start` is the first
    batch and `cursor` its cursor; without one, the streams start at their beginning. Each rank has the rows of its own
    streams; the input `cursor` is that of all streams, in the order of the ranks.
    """

    def __init__(
        self,
        text: RowGroups,
        tokenizer: Tokenizer,
        boundary: Boundary,
        *,
        rows: int,
        seq_len: int,
        streams: int = 0,
        start: int = 0,
        cursor: Any = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        streams = resolve_streams(streams, cursor, ranks)
        check_streams(text, rows, streams, ranks)
        mine = range(streams)[share_of_rank(streams, rank, ranks)]
        positions = positions_from_cursor(cursor, streams)
        self.seq_len = seq_len
        self.rows_per_stream = rows // streams
        self._streams = [
            Stream(text, tokenizer, boundary, first=number, step=streams, position=positions[number]) for number in mine
        ]
        self._next = start
        self._cursors: deque[tuple[int, list[list[int]]]] = deque(maxlen=CURSOR_HISTORY)
        self._record_cursor()

    def batch(self, i: int) -> tuple[Int64, Int64]:
        """Batch i, which must be the next one: inputs and targets, int64 (rows, seq_len)."""
        if i != self._next:
            raise ValueError(f"asked for batch {i}, but {self._next} comes next")
        taken = [stream.take(self.rows_per_stream * self.seq_len) for stream in self._streams]
        self._next += 1
        self._record_cursor()
        inputs = np.concatenate([tokens[:-1] for tokens in taken]).reshape(-1, self.seq_len)
        targets = np.concatenate([tokens[1:] for tokens in taken]).reshape(-1, self.seq_len)
        return inputs, targets

    def num_targets(self, i: int) -> int:
        """0: no target is ignored."""
        return 0

    def cursor(self, i: int) -> list[list[int]]:
        """The start of a recent batch i: [row group, tokens used] of each stream of this rank. Thread-safe."""
        return dict(self._cursors.copy())[i]

    def _record_cursor(self) -> None:
        self._cursors.append((self._next, [list(stream.position) for stream in self._streams]))


def resolve_streams(streams: int, cursor: Any, ranks: int) -> int:
    """`streams`; if 0, as many as `cursor` has positions: the number of ranks at the first step."""
    return streams or (len(cursor) if isinstance(cursor, list) and cursor else ranks)


def check_streams(text: RowGroups, rows: int, streams: int, ranks: int) -> None:
    """ConfigError unless rows and ranks divide the streams evenly and every stream has a row group."""
    for ok, message in (
        (
            streams % ranks == 0,
            f"is not a multiple of the {ranks} processes; use a number of processes that divides it",
        ),
        (rows % streams == 0, f"does not divide the {rows} rows of a batch; change one of them"),
        (streams <= len(text.groups), f"is more than the {len(text.groups)} row groups of the corpus; use fewer"),
    ):
        if not ok:
            raise ConfigError([Problem("data.streams", f"{streams} {message}")])


def positions_from_cursor(cursor: Any, streams: int) -> list[Position]:
    """The positions in a saved cursor. UserError unless it has one for each of `streams` streams."""
    if cursor is None:
        return [Position(0, 0)] * streams
    try:
        positions = [Position(int(group), int(taken)) for group, taken in cursor]
    except (TypeError, ValueError):
        positions = []
    if len(positions) != streams or min(map(min, positions)) < 0:
        raise UserError(
            f"The checkpoint has no positions in the corpus for {streams} streams; use another checkpoint, or restore "
            "data.streams."
        )
    return positions
