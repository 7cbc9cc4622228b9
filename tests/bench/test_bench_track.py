"""The interval of a median, compared with the published table."""

from __future__ import annotations

import pytest

from workbench.bench.track import median_interval


@pytest.mark.parametrize(
    ("count", "place"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8)]
)
def test_an_interval_of_the_median_is_that_of_the_sign_test(count: int, place: int) -> None:
    """The ranks of a 95 % interval: Conover, Practical Nonparametric Statistics, 1999, table A3 with p = 1/2."""
    values = [float(rank) for rank in range(count, 0, -1)]
    assert median_interval(values) == (place, count + 1 - place)
