"""BPE training with arrays: the cost of a merge is proportional to the occurrences of its pair.

All distinct pre-tokens are stored in one array of symbols, each followed by a border. A merge replaces the left symbol
of its pair by the new one and removes the right one from a doubly linked list; only the counts of the adjacent pairs
change. So a pre-token of a million characters (Chinese, Thai, base64) costs no more than a million short ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Ties = Literal["ids", "bytes"]
Positions = NDArray[np.int32]

BORDER, REMOVED = -1, -2
FEW_POSITIONS = 24
"""Up to this many positions plain Python is faster than numpy's calls."""

INVERTED_BYTES = bytes(255 - value for value in range(256))


def learn_merges(
    words: Mapping[bytes, int], count: int, ties: Ties = "ids", report: Callable[[int], None] = lambda done: None
) -> list[Pair]:
    """At most `count` merges learned from `words` (bytes -> count), as pairs of ids in training order.

    Merge k creates id 256 + k. The most frequent pair is merged; among equally frequent pairs, the one with smaller ids
    (ties "ids") or greater bytes, left token first (ties "bytes"). `report` is called with the number of merges.
    """
    state = _Symbols(words, ties)
    pairs: list[Pair] = []
    while len(pairs) < count and (pair := state.pop_most_frequent()) is not None:
        state.merge(pair)
        pairs.append(pair)
        report(len(pairs))
    return pairs


class _Symbols:
    """The symbols of all words, the count of every pair of adjacent symbols, and a heap of the pairs.

    `_positions[id]` are the positions of a symbol in ascending order, some of them outdated; those are dropped when
    they are read. Counts in the heap are current or too high.
    """

    def __init__(self, words: Mapping[bytes, int], ties: Ties) -> None:
        content = [word for word in words if word]
        lengths = np.array([len(word) for word in content], dtype=np.int64)
        text = np.frombuffer(b"\0".join([b"", *content, b""]), dtype=np.uint8)
        borders = np.concatenate([[0], np.cumsum(lengths + 1)])
        self._ids = text.astype(np.int32)
        self._ids[borders] = BORDER
        frequencies = np.array([words[word] for word in content], dtype=np.int64)
        self._weights = np.append(np.repeat(frequencies, lengths + 1), 0)
        self._next = np.arange(1, len(text) + 1, dtype=np.int32)
        self._previous = np.arange(-1, len(text) - 1, dtype=np.int32)
        self._merged = np.zeros(len(text), dtype=np.bool_)
        self._ties = ties
        self._tokens = [bytes([value]) for value in range(256)]
        self._order = [_descending_key(token) for token in self._tokens]
        by_symbol = np.argsort(self._ids, kind="stable").astype(np.int32)
        ends = np.searchsorted(self._ids[by_symbol], np.arange(257))
        self._positions = [by_symbol[ends[value] : ends[value + 1]] for value in range(256)]
        self._counts = self._count_all()
        self._heap = [self._entry(pair) for pair in self._counts]
        heapify(self._heap)

    def pop_most_frequent(self) -> Pair | None:
        """Remove the pair to merge next from the heap and return it; None if no pair is left."""
        while self._heap:
            negative_count, _, pair = heappop(self._heap)
            count = self._counts[pair]
            if count == -negative_count:
                if count > 0:
                    return pair
            elif count > 0:
                heappush(self._heap, self._entry(pair))
        return None

    def merge(self, pair: Pair) -> None:
        """Replace each occurrence of `pair` by the next id, from left to right within a word."""
        new_id = len(self._tokens)
        self._tokens.append(self._tokens[pair[0]] + self._tokens[pair[1]])
        if self._ties == "bytes":
            self._order.append(_descending_key(self._tokens[-1]))
        left = self._positions_of(pair)
        self._positions.append(left)
        changes = (self._replace_few if len(left) <= FEW_POSITIONS else self._replace_many)(pair, new_id, left)
        counts = self._counts
        for neighbors, change in changes.items():
            counts[neighbors] = counts.get(neighbors, 0) + change
            if new_id in neighbors and change > 0:  # no other count can rise
                heappush(self._heap, self._entry(neighbors))
        counts[pair] = 0

    def _positions_of(self, pair: Pair) -> Positions:
        """The left positions of the occurrences of `pair` to merge, found by the rarer of its two symbols."""
        first, second = pair
        if len(self._positions[first]) <= len(self._positions[second]):
            left: Positions = self._current_positions(first)
            left = left[self._ids[self._next[left]] == second]
        else:
            left = self._previous[self._current_positions(second)]
            left = left[self._ids[left] == first]
        if first != second:
            return left
        numbers = np.arange(len(left), dtype=np.int32)  # in a run of one symbol, merge every other position
        begins = np.ones(len(left), dtype=np.bool_)
        begins[1:] = self._next[left[:-1]] != left[1:]
        run_start = np.maximum.accumulate(np.where(begins, numbers, 0))
        every_other: Positions = left[(numbers - run_start) % 2 == 0]
        return every_other

    def _current_positions(self, symbol: int) -> Positions:
        positions = self._positions[symbol]
        current: Positions = positions[self._ids[positions] == symbol]
        self._positions[symbol] = current
        return current

    def _replace_few(self, pair: Pair, new_id: int, left: Positions) -> dict[Pair, int]:
        """Replace the pair at each position of `left`, one by one; returns the changes of the pair counts."""
        ids, next_, previous, weights = self._ids, self._next, self._previous, self._weights
        changes: dict[Pair, int] = defaultdict(int)
        for position in left.tolist():
            right = int(next_[position])
            before, after = int(previous[position]), int(next_[right])
            left_id, right_id, weight = int(ids[before]), int(ids[after]), int(weights[position])
            ids[position], ids[right] = new_id, REMOVED
            next_[position], previous[after] = after, position
            if left_id >= 0:
                changes[left_id, pair[0]] -= weight
                changes[left_id, new_id] += weight
            if right_id >= 0:
                changes[pair[1], right_id] -= weight
                changes[new_id, right_id] += weight
        return changes

    def _replace_many(self, pair: Pair, new_id: int, left: Positions) -> dict[Pair, int]:
        """The same for all positions at once."""
        ids, weights = self._ids, self._weights[left]
        right = self._next[left]
        before, after = self._previous[left], self._next[right]
        self._merged[left] = True
        single = ~self._merged[after]  # if the next pair is merged too, the pair between the two is counted there
        self._merged[left] = False
        changes: dict[Pair, int] = defaultdict(int)
        for symbol, total in _sum_by_symbol(ids[before], weights):
            changes[symbol, pair[0]] -= total
        for symbol, total in _sum_by_symbol(ids[after[single]], weights[single]):
            changes[pair[1], symbol] -= total
        ids[left], ids[right] = new_id, REMOVED
        self._next[left] = after
        self._previous[after] = left
        for symbol, total in _sum_by_symbol(ids[self._previous[left]], weights):
            changes[symbol, new_id] += total
        for symbol, total in _sum_by_symbol(ids[after[single]], weights[single]):
            changes[new_id, symbol] += total
        return changes

    def _count_all(self) -> dict[Pair, int]:
        left = np.flatnonzero((self._ids[:-1] >= 0) & (self._ids[1:] >= 0))
        codes = self._ids[left] * 256 + self._ids[left + 1]
        return {(code // 256, code % 256): total for code, total in _sum_by_symbol(codes, self._weights[left])}

    def _entry(self, pair: Pair) -> tuple[int, Any, Pair]:
        """The heap's smallest entry is the pair to merge next."""
        key = pair if self._ties == "ids" else (self._order[pair[0]], self._order[pair[1]])
        return -self._counts[pair], key, pair


def _descending_key(token: bytes) -> str:
    """A sort key that puts greater tokens first: inverted bytes, then a terminator above all of them ("ab" > "a")."""
    return token.translate(INVERTED_BYTES).decode("latin-1") + "\u0100"


def _sum_by_symbol(symbols: Positions, weights: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(symbol, sum of its weights) for each symbol that is not a border."""
    if not len(symbols):
        return iter(())
    order = np.argsort(symbols, kind="stable")
    ordered = symbols[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    totals = np.add.reduceat(weights[order], starts)
    pairs = zip(ordered[starts].tolist(), totals.tolist(), strict=True)
    return (pair for pair in pairs if pair[0] >= 0)
