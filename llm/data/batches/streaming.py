"""Parquet read and tokenized while training: row group by row group, one flat buffer, batches cut from it in order.

Row group g of the corpus belongs to stream g mod S. A stream goes through its row groups over and over; each batch
takes the same number of rows from every stream, in the order of the streams, so that a rank whose rows are those of
some streams reads only their row groups. A position is (row groups begun, tokens taken of the last one): small, and
exact, because tokenizing a row group again gives the same tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.data.text.parquet import RowGroups
from llm.errors import ConfigError, Problem, UserError
from llm.tokenizer import Tokenizer

Int64 = NDArray[np.int64]
CURSORS_KEPT = 16  # more than a prefetcher runs ahead


class Place(NamedTuple):
    """A position in a stream: `group` counts its row groups on from pass to pass, `taken` the tokens used of it."""

    group: int
    taken: int


class Stream:
    """One endless sequence of tokens: row groups `first`, `first + step`, …, again and again, from `place` on."""

    def __init__(
        self,
        text: RowGroups,
        tokenizer: Tokenizer,
        boundary: Literal["after", "before", "none"],
        *,
        first: int,
        step: int,
        place: Place,
    ) -> None:
        self._text, self._tokenizer = text, tokenizer
        self._numbers = range(first, len(text.groups), step)
        separator = [] if tokenizer.separator is None or boundary == "none" else [tokenizer.separator]
        self._before = separator if boundary == "before" else []
        self._after = separator if boundary == "after" else []
        self._next = place.group
        self._skip = place.taken
        self._buffer: deque[tuple[int, Int64]] = deque()  # (row group, those of its tokens that are left)
        self._lengths: dict[int, int] = {}  # row group -> all of its tokens

    def take(self, count: int) -> Int64:
        """The next `count` tokens and the one after them, which comes again: int64 (count + 1,)."""
        while sum(len(tokens) for _, tokens in self._buffer) <= count:
            self._read()
        parts: list[Int64] = []
        wanted = count
        while wanted:
            group, tokens = self._buffer.popleft()
            parts.append(tokens[:wanted])
            wanted -= len(parts[-1])
            if len(tokens) > len(parts[-1]):
                self._buffer.appendleft((group, tokens[len(parts[-1]) :]))
            else:
                del self._lengths[group]
        _, following = self._buffer[0]
        return np.concatenate([*parts, following[:1]])

    @property
    def place(self) -> Place:
        """Where the next `take` begins."""
        if not self._buffer:
            return Place(self._next, self._skip)
        group, tokens = self._buffer[0]
        return Place(group, self._lengths[group] - len(tokens))

    def _read(self) -> None:
        """Tokenize the next row group that holds any text."""
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
        ids: list[int] = []
        for encoded in self._tokenizer.encode_batch(texts):
            ids += self._before
            ids += encoded
            ids += self._after
        return np.array(ids, dtype=np.int64)


class StreamedBatches:
    """A BatchSource over streams of row groups. Batches come in order: batch i can be had only after batch i - 1.

    `rows` per batch, the same number from each of `streams` (0: see `resolve_streams`). `start` is the first batch, and
    `cursor` what `cursor` said of it; without, the streams begin at their beginning. Of several ranks each has the rows
    of its own streams; a cursor to begin from is that of all streams, the ranks' own ones in the order of the ranks.
    """

    def __init__(
        self,
        text: RowGroups,
        tokenizer: Tokenizer,
        boundary: Literal["after", "before", "none"],
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
        mine = range(rank * streams // ranks, (rank + 1) * streams // ranks)
        places = read_cursor(cursor, streams)
        self.seq_len = seq_len
        self.rows_each = rows // streams
        self._streams = [
            Stream(text, tokenizer, boundary, first=number, step=streams, place=places[number]) for number in mine
        ]
        self._next = start
        self._cursors: deque[tuple[int, list[list[int]]]] = deque(maxlen=CURSORS_KEPT)
        self._remember()

    def batch(self, i: int) -> tuple[Int64, Int64]:
        """Batch i, which must be the next one: inputs and targets, int64 (rows, seq_len)."""
        if i != self._next:
            raise ValueError(f"asked for batch {i}, but {self._next} comes next")
        taken = [stream.take(self.rows_each * self.seq_len) for stream in self._streams]
        self._next += 1
        self._remember()
        inputs = np.concatenate([tokens[:-1] for tokens in taken]).reshape(-1, self.seq_len)
        targets = np.concatenate([tokens[1:] for tokens in taken]).reshape(-1, self.seq_len)
        return inputs, targets

    def cursor(self, i: int) -> list[list[int]]:
        """Where batch i begins: [row group, tokens taken] of each stream here. For recent batches, from any thread."""
        return dict(self._cursors.copy())[i]

    def _remember(self) -> None:
        self._cursors.append((self._next, [list(stream.place) for stream in self._streams]))


def resolve_streams(streams: int, cursor: Any, ranks: int) -> int:
    """`streams`; for 0 as many as `cursor` has places, which are as many as there were ranks at the first step."""
    return streams or (len(cursor) if isinstance(cursor, list) and cursor else ranks)


def check_streams(text: RowGroups, rows: int, streams: int, ranks: int) -> None:
    """ConfigError unless rows and ranks share the streams out evenly, and every stream has a row group."""
    whole = "take a number of processes that divides it"
    for ok, message in (
        (streams % ranks == 0, f"is not a multiple of the {ranks} processes that train; {whole}"),
        (rows % streams == 0, f"does not divide the {rows} rows of a batch; change one of the two"),
        (streams <= len(text.groups), f"is more than the {len(text.groups)} row groups of the corpus; take fewer"),
    ):
        if not ok:
            raise ConfigError([Problem("data.streams", f"{streams} {message}")])


def read_cursor(cursor: Any, streams: int) -> list[Place]:
    """The places a saved cursor names. UserError where it is not one of `streams` streams."""
    if cursor is None:
        return [Place(0, 0)] * streams
    try:
        places = [Place(int(group), int(taken)) for group, taken in cursor]
    except (TypeError, ValueError):
        places = []
    if len(places) != streams or min(map(min, places)) < 0:
        raise UserError(
            f"The checkpoint does not hold a place in the corpus for {streams} streams; use another checkpoint, or set "
            "data.streams as it was."
        )
    return places
