"""The interval of a median from order statistics."""

from __future__ import annotations

import pytest

from workbench.bench.report import Speed, median_interval, ratio_text


@pytest.mark.parametrize(
    ("count", "rank", "confidence"),
    [(6, 1, 0.969), (9, 2, 0.961), (12, 3, 0.961), (20, 6, 0.959), (3, 1, 0.75), (1, 1, 0)],
)
def test_the_ranks_are_those_of_published_tables(count: int, rank: int, confidence: float) -> None:
    """Ranks and confidence of the sign test's interval (Conover 1999, table of the binomial distribution)."""
    values = [float(value) for value in range(count, 0, -1)]
    interval, found = median_interval(values)
    assert interval == (rank, count + 1 - rank)
    assert found == pytest.approx(confidence, abs=6e-4)


def test_a_ratio_shows_its_median_interval_and_range() -> None:
    ratio = Speed.of([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 3.0])
    assert ratio_text(vars(ratio)) == "1.40 [1.10–1.70, 96%] (1.00–3.00)"
