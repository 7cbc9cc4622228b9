"""Statistics of repeated measurements, and their order."""

from __future__ import annotations

import pytest

from workbench.bench.report import Stats, alternate, median_interval, ratio_text, ratios


@pytest.mark.parametrize(
    ("count", "rank", "confidence"),
    [(6, 1, 0.969), (9, 2, 0.961), (12, 3, 0.961), (20, 6, 0.959), (3, 1, 0.75), (1, 1, 0)],
)
def test_the_interval_has_the_ranks_of_published_tables(count: int, rank: int, confidence: float) -> None:
    """Ranks and confidence of the sign test's interval (Conover 1999, table of the binomial distribution)."""
    values = [float(value) for value in range(count, 0, -1)]
    interval, found = median_interval(values)
    assert interval == (rank, count + 1 - rank)
    assert found == pytest.approx(confidence, abs=6e-4)


def test_a_ratio_shows_its_median_interval_and_range() -> None:
    ratio = Stats.of([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 3.0])
    assert ratio_text(vars(ratio)) == "1.40 [1.10–1.70, 96%] (1.00–3.00)"


def test_the_order_is_reversed_every_turn() -> None:
    assert "".join(alternate("abc", 3)) == "abc" + "cba" + "abc"


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
