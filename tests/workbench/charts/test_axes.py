"""Where ticks go and how they are labeled."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.charts.axes import x_ticks, y_ticks


def test_round_ticks():
    assert [label for _, label in y_ticks(0.9, 7.1, 7, log=False)] == ["1", "2", "3", "4", "5", "6", "7"]
    assert [label for _, label in x_ticks(0, 5000, 6, "step")] == ["0", "1k", "2k", "3k", "4k", "5k"]
    assert [label for _, label in x_ticks(0, 130, 5, "time")] == ["0", "30s", "1:00", "1:30", "2:00"]


def test_log_ticks_stand_at_powers_of_ten():
    ticks = y_ticks(-4, 2, 7, log=True)
    assert all(place == pytest.approx(math.log10(float(label))) for place, label in ticks)
    assert "0.01" in [label for _, label in ticks]


@given(
    low=st.floats(-1e9, 1e9),
    span=st.floats(1e-6, 1e12),
    most=st.integers(1, 20),
    log=st.booleans(),
)
def test_ticks_lie_inside_and_never_crowd(low, span, most, log):
    if log:
        low, span = low / 1e8, min(span, 30)
    if low + span <= low:
        return
    ticks = y_ticks(low, low + span, most, log)
    slack = span * 1e-6 + abs(low) * 1e-9
    assert len(ticks) <= most + 2
    assert all(low - slack <= place <= low + span + slack for place, _ in ticks)
