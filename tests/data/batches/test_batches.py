"""Batches as a pure function of (seed, i)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llm.data.batches.windows import Batches, evaluation_windows, permute
from llm.errors import UserError


@dataclass
class Counting:
    """A split whose token at place k is k."""

    length: int
    name: str = "training"
    bytes: int = 0
    dtype: np.dtype[np.unsignedinteger] = field(default_factory=lambda: np.dtype("<u4"))

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        assert 0 <= start <= stop <= self.length
        return np.arange(start, stop, dtype=self.dtype)


def test_shapes_and_shift() -> None:
    for order in ("random", "epoch", "sequential"):
        inputs, targets = Batches(Counting(997), rows=7, seq_len=13, seed=3, order=order).batch(5)
        assert inputs.shape == targets.shape == (7, 13)
        assert inputs.dtype == targets.dtype == np.int64
        assert (targets == inputs + 1).all()
        assert (inputs == inputs[:, :1] + np.arange(13)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(100, 200), st.integers(1, 9), st.integers(1, 8), st.integers(0, 2**40))
def test_leaving_out_the_last_batch(length: int, seq_len: int, rows: int, seed: int) -> None:
    """As a shuffled loader does that drops the last batch: no window twice, others left out each pass."""
    split = Counting(length)
    batches = Batches(split, rows=rows, seq_len=seq_len, seed=seed, order="epoch", drop_last=True)
    windows = set(range(0, length - seq_len, seq_len))
    per_epoch = max(1, len(windows) // rows)
    missing = []
    for epoch in range(4):
        first = epoch * per_epoch
        starts = [int(start) for i in range(first, first + per_epoch) for start in batches.starts(i)]
        assert len(set(starts)) == len(starts) == len(windows) // rows * rows
        assert set(starts) <= windows
        missing.append(frozenset(windows - set(starts)))
    if len(windows) % rows and len(windows) > 20:
        assert len(set(missing)) > 1


def test_fewer_windows_than_a_batch_are_refused_where_the_last_batch_is_left_out() -> None:
    Batches(Counting(40), rows=3, seq_len=13, seed=1, order="epoch", drop_last=True)
    with pytest.raises(UserError, match=r"3 windows, fewer than one batch of 4.*data\.drop_last"):
        Batches(Counting(40), rows=4, seq_len=13, seed=1, order="epoch", drop_last=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 500), st.integers(1, 19), st.integers(1, 40), st.integers(1, 11), st.integers(0, 2**40))
def test_epoch_has_every_window_exactly_once(length: int, seq_len: int, stride: int, rows: int, seed: int) -> None:
    batches = Batches(Counting(length), rows=rows, seq_len=seq_len, seed=seed, order="epoch", stride=stride)
    expected = list(range(0, length - seq_len, stride))
    assert batches.windows == len(expected)
    starts = np.concatenate([batches.starts(i) for i in range(2 * len(expected) // rows + 1)])
    first, second = starts[: len(expected)], starts[len(expected) : 2 * len(expected)]
    assert sorted(first) == expected
    assert sorted(second) == expected
    if len(expected) > 30:
        assert list(first) != expected
        assert list(first) != list(second)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63), st.integers(0, 2**31))
def test_permutation_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(size), size, seed, epoch)) == list(range(size))


def test_permutation_of_a_size_no_array_could_hold() -> None:
    size = 10**12 + 39
    places = permute(np.arange(10_000) * 10**8, size, 1, 0)
    assert len(set(places)) == 10_000
    assert places.min() >= 0
    assert places.max() < size
    assert abs(places.mean() / size - 0.5) < 0.02


def test_permutation_looks_shuffled() -> None:
    """Neighbours end up far apart: the mean distance of a uniform shuffle is size / 3."""
    places = permute(np.arange(3000), 3000, 5, 0)
    assert abs(np.abs(np.diff(places)).mean() / 1000 - 1) < 0.1


def test_random_starts_are_uniform_and_stay_inside() -> None:
    batches = Batches(Counting(101), rows=64, seq_len=11, seed=1)
    starts = np.concatenate([batches.starts(i) for i in range(300)])
    assert starts.min() == 0
    assert starts.max() == 101 - 11 - 1
    counts = np.bincount(starts, minlength=90)
    expected = len(starts) / 90
    assert ((counts - expected) ** 2 / expected).sum() < 89 + 5 * np.sqrt(2 * 89)  # chi-squared, five sigma


def test_random_starts_are_the_same_on_every_machine() -> None:
    assert Batches(Counting(10**6), rows=3, seq_len=8, seed=42).starts(17).tolist() == [23862, 30942, 62617]


@pytest.mark.parametrize("order", ["random", "epoch", "sequential"])
def test_slices_of_rows_make_up_the_batch(order: str) -> None:
    """1x8, 2x4 and 8x1 see the same sequences."""

    def windows(rank: int, ranks: int) -> Batches:
        return Batches(Counting(997), rows=8, seq_len=5, seed=9, order=order, rank=rank, ranks=ranks)  # type: ignore[arg-type]

    whole = windows(0, 1)
    for size in (1, 2, 4):
        ranks = 8 // size
        parts = [windows(rank, ranks).batch(6)[0] for rank in range(ranks)]
        assert (np.concatenate(parts) == whole.batch(6)[0]).all()
    assert (whole.batch(6)[0] == whole.batch(6)[0]).all()


def test_seeds_and_batches_differ() -> None:
    one, other = (Batches(Counting(10**6), rows=4, seq_len=5, seed=seed) for seed in (1, 2))
    assert len({tuple(batches.starts(i)) for batches in (one, other) for i in (0, 1, 2)}) == 6


def test_sequential_continues_in_order_and_starts_again() -> None:
    batches = Batches(Counting(31), rows=4, seq_len=5, seed=0, order="sequential")
    assert batches.starts(0).tolist() == [0, 5, 10, 15]
    assert batches.starts(1).tolist() == [20, 25, 0, 5]


def test_shortest_text_and_one_too_short() -> None:
    assert Batches(Counting(6), rows=2, seq_len=5, seed=0).starts(0).tolist() == [0, 0]
    for make in (
        lambda: Batches(Counting(5), rows=2, seq_len=5, seed=0),
        lambda: evaluation_windows(Counting(5), 5, 1),
    ):
        with pytest.raises(UserError, match="5 tokens long, too short for one window of 5"):
            make()


def test_evaluation_windows_are_spread_over_the_split() -> None:
    starts = evaluation_windows(Counting(1001), 10, 7)
    assert len(starts) == 7
    assert starts[0] == 0
    assert 1000 - starts[-1] < 2 * 1000 / 7
    assert np.diff(starts).min() >= 10
    assert np.diff(starts).max() - np.diff(starts).min() <= 10
    assert evaluation_windows(Counting(1001), 10, 0).tolist() == list(range(0, 1000, 10))
    assert len(evaluation_windows(Counting(1001), 10, 5000)) == 100
