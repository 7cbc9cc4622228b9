"""Smoothing and thinning of curves, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.charts.downsample import clip, segments, smooth, thin, tidy, visible


def smooth_by_definition(values, decay):
    state, result = 0.0, []
    for count, value in enumerate(values, 1):
        state = decay * state + (1 - decay) * value
        result.append(state / (1 - decay**count))
    return np.array(result)


@pytest.mark.parametrize("decay", [0.1, 0.6, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("count", [1, 2, 31, 5003])
def test_smoothing_is_the_debiased_moving_average(decay, count):
    values = np.random.default_rng(count).normal(3, 2, count)
    np.testing.assert_allclose(smooth(values, decay), smooth_by_definition(values, decay), rtol=1e-9)


def test_gaps_stay_gaps_and_do_not_move_the_average():
    values = np.array([2.0, math.nan, 4.0, math.nan, math.nan, 1.0])
    expected = smooth_by_definition([2.0, 4.0, 1.0], 0.7)
    result = smooth(values, 0.7)
    assert np.isnan(result[[1, 3, 4]]).all()
    np.testing.assert_allclose(result[[0, 2, 5]], expected, rtol=1e-12)


def test_no_smoothing_gives_the_values_themselves():
    values = np.array([1.0, 2.0])
    assert smooth(values, 0.0) is values
    assert np.isnan(smooth(np.array([math.nan]), 0.9)).all()


def test_thinning_keeps_the_extremes_of_every_column():
    rng = np.random.default_rng(7)
    x, y = np.arange(10_007, dtype=float), rng.normal(size=10_007)
    thin_x, thin_y = thin(x, y, 0, 10_006, 53)
    assert len(thin_x) <= 2 * 53
    assert (np.diff(thin_x) >= 0).all()
    edges = np.linspace(0, 10_006, 54)
    for column in range(53):
        last = column == 52
        inside = (x >= edges[column]) & ((x < edges[column + 1]) | last)
        drawn = thin_y[(thin_x >= edges[column]) & (thin_x < edges[column + 1])]
        assert {drawn.min(), drawn.max()} == {y[inside].min(), y[inside].max()}


def test_a_column_of_gaps_is_a_gap():
    x, y = np.arange(1000.0), np.ones(1000)
    y[300:400] = math.nan
    thin_x, thin_y = thin(x, y, 0, 999, 20)
    pieces = segments(thin_x, thin_y)
    assert len(pieces) == 2
    assert pieces[0][0][-1] < 310 and pieces[1][0][0] > 390


def test_what_is_sparse_is_left_alone():
    x, y = np.arange(5.0), np.arange(5.0)
    assert thin(x, y, 0, 4, 10)[0].tolist() == x.tolist()


def test_tidy_orders_and_removes_what_cannot_be_drawn():
    x, y = tidy(np.array([3, 1, math.inf, 2]), np.array([30.0, math.inf, 5.0, -math.inf]))
    assert x.tolist() == [1, 2, 3]
    assert np.isnan(y[:2]).all() and y[2] == 30


def test_visible_takes_one_neighbour_on_each_side():
    x = np.arange(10.0)
    part = visible(x, 3.5, 5.5)
    assert x[part].tolist() == [3, 4, 5, 6]


def test_clip_ends_on_the_border():
    x, y = clip(np.array([0.0, 10.0]), np.array([0.0, 100.0]), 2.5, 5.0)
    assert x.tolist() == [2.5, 5.0] and y.tolist() == [25.0, 50.0]
    assert len(clip(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 2, 3)[0]) == 0
