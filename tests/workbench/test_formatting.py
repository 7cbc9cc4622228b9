"""Numbers, sizes, durations and ages as text."""

from __future__ import annotations

import math

import pytest

from workbench.formatting import format_age, format_count, format_duration, format_number, format_size, plural


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.23456, "1.235"), (0.0003, "3e-4"), (12.3456, "12.346"), (123456, "123.5k"), (math.nan, "—"),
     (-math.inf, "-∞"), (0.05, "0.05"), (6.02e23, "6.02e23")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_units():
    assert format_count(1000) == "1k" and format_count(12) == "12" and format_count(1_250_000) == "1.25M"
    assert format_size(512) == "512 B" and format_size(1_500_000) == "1.5 MB"
    assert format_duration(42) == "42s" and format_duration(185) == "3m 05s" and format_duration(7620) == "2h 07m"
    assert format_duration(273_600) == "3d 04h" and format_duration(math.inf) == "—"
    assert format_count(123_456, digits=3) == "123k" and format_count(999.96, digits=3) == "1k"


def test_ages_and_plurals():
    assert [format_age(seconds) for seconds in (-1, 42, 700, 7300, 200_000)] == ["0s", "42s", "11m", "2h", "2d"]
    assert plural(1, "row") == "1 row" and plural(1200, "row") == "1,200 rows"
