"""Batches of preferences: each row holds the chosen and the rejected conversation of one pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.batches.packing import IGNORE_INDEX, Int64, read_conversation
from llm.data.tokens.conversation_tokens import START, ConversationTokens

Float32 = NDArray[np.float32]


class PairRows:
    """The pairs of a split, whose conversations 2k and 2k + 1 are the chosen and the rejected one of pair k.

    Pairs of which one conversation has more than `seq_len` inputs are left out (`dropped`). `reference`, float32
    (rows, 2), are the log-probabilities of both answers under the model before this stage; they are set once computed.
    """

    def __init__(self, split: ConversationTokens, seq_len: int) -> None:
        self.split, self.seq_len = split, seq_len
        self._marks = split.read_marks()
        starts = np.flatnonzero(self._marks & START).astype(np.int64)
        lengths = np.append(starts[1:], len(self._marks)) - starts
        fits = (lengths.reshape(-1, 2) <= seq_len + 1).all(1)
        self._starts, self._lengths = starts.reshape(-1, 2)[fits], lengths.reshape(-1, 2)[fits]
        self.dropped = int((~fits).sum())
        self.reference: Float32 = np.zeros((len(self._starts), 2), np.float32)

    @property
    def rows(self) -> int:
        return len(self._starts)

    @property
    def num_targets(self) -> Int64:
        """0 for every row: the loss is a mean over pairs, not over targets."""
        return np.zeros(self.rows, np.int64)

    def read(self, rows: Int64) -> tuple[NDArray[Any], ...]:
        """Inputs and targets, int64 (len(rows), 2, seq_len), with -1 for targets that are not part of the answer, and
        the reference log-probabilities, float32 (len(rows), 2)."""
        shape = (len(rows), 2, self.seq_len)
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX, np.int64)
        for place, row in enumerate(rows):
            for side in range(2):
                start, length = int(self._starts[row, side]), int(self._lengths[row, side])
                read = read_conversation(self.split, self._marks, start, length)
                inputs[place, side, : length - 1], targets[place, side, : length - 1] = read
        return inputs, targets, self.reference[rows]
