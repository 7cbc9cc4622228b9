"""Reduce curves before drawing: smoothing, and about two points per column. Pure numpy, no screen.

Curves are pairs of float64 arrays of shape (N,): `x` never decreases, `y` is NaN where there is a gap.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tidy(x: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
    """The curve as float64, sorted by x. Infinite y becomes a gap; points without a finite x are dropped."""
    count = min(len(x), len(y))
    xs, ys = (np.ascontiguousarray(values[:count], dtype=np.float64) for values in (x, y))
    known = np.isfinite(xs)
    if not known.all():
        xs, ys = xs[known], ys[known]
    if len(xs) > 1 and (xs[1:] < xs[:-1]).any():
        order = np.argsort(xs, kind="stable")
        xs, ys = xs[order], ys[order]
    finite = np.isfinite(ys)
    return xs, ys if finite.all() else np.where(finite, ys, np.nan)


def smooth(y: Floats, decay: float) -> Floats:
    """Debiased exponential moving average: s_t = decay·s_{t-1} + (1-decay)·y_t, divided by 1-decay^(t+1).

    The division is Adam's bias correction (Kingma & Ba 2015, section 3): the first value is y_0. Gaps stay gaps and do
    not change the average.
    """
    if not 0 < decay < 1 or not len(y):
        return y
    known = ~np.isnan(y)
    values = y[known]
    if not len(values):
        return y
    averaged = _moving_average(values, decay)
    averaged /= -np.expm1(np.arange(1, len(values) + 1) * math.log(decay))
    if len(values) == len(y):
        return averaged
    result = np.full(len(y), np.nan)
    result[known] = averaged
    return result


def _moving_average(values: Floats, decay: float) -> Floats:
    """The recursion in blocks: s_i = decay^i·(1-decay)·Σ_{j≤i} y_j·decay^-j within a block, plus the carry of the block
    before. Blocks are short enough that decay^-j stays below 1e6, so that the sum loses no precision."""
    length = max(1, min(4096, int(math.log(1e6) / -math.log(decay))))
    count = len(values)
    rows = -(-count // length)
    padded = np.zeros(rows * length)
    padded[:count] = values
    powers = decay ** np.arange(length)
    blocks = np.cumsum(padded.reshape(rows, length) / powers, axis=1) * (powers * (1 - decay))
    carried, carry, fade = np.empty(rows), 0.0, decay**length
    for row, last in enumerate(blocks[:, -1].tolist()):
        carried[row] = carry
        carry = carry * fade + last
    blocks += carried[:, None] * (powers * decay)
    return np.asarray(blocks.reshape(-1)[:count])


def visible(x: Floats, low: float, high: float) -> slice:
    """The points to draw for the range [low, high]: those inside, and one neighbor on either side."""
    start = max(0, int(np.searchsorted(x, low, side="left")) - 1)
    return slice(start, min(len(x), int(np.searchsorted(x, high, side="right")) + 1))


def thin(x: Floats, y: Floats, low: float, high: float, columns: int) -> tuple[Floats, Floats]:
    """At most two points for each of `columns` columns of [low, high]: the least and the greatest value in it.

    Both are at the middle of their column, and columns alternate between up and down: the line consists of vertical
    strokes joined at their ends, half the work of a zigzag. A column without a finite value is a gap. A sparse curve
    is returned unchanged.
    """
    part = visible(x, low, high)
    x, y = x[part], y[part]
    if len(x) <= columns or columns < 1 or high <= low:
        return x, y
    edges = np.searchsorted(x, np.linspace(low, high, columns + 1), side="left")
    edges[-1] = np.searchsorted(x, high, side="right")
    starts = edges[:-1]
    filled = np.flatnonzero(edges[1:] > starts)
    starts = starts[filled]
    least, greatest = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    upward = np.arange(len(filled)) % 2 == 0
    thin_y = np.empty(2 * len(filled))
    thin_y[0::2] = np.where(upward, least, greatest)
    thin_y[1::2] = np.where(upward, greatest, least)
    thin_x = np.repeat(low + (filled + 0.5) * ((high - low) / columns), 2)
    return thin_x, thin_y


def segments(x: Floats, y: Floats) -> list[tuple[Floats, Floats]]:
    """The parts of a curve between gaps."""
    known = np.flatnonzero(~np.isnan(y))
    if not len(known):
        return []
    if len(known) == len(y):
        return [(x, y)]
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return [(x[run], y[run]) for run in runs]


def clip(x: Floats, y: Floats, low: float, high: float, *, joined: bool = True) -> tuple[Floats, Floats]:
    """The part of a curve in [low, high]. If its points are `joined`, lines are cut at the borders by linear
    interpolation."""
    if not len(x) or (x[0] >= low and x[-1] <= high):
        return x, y
    if x[0] > high or x[-1] < low:
        return x[:0], y[:0]
    ends = [border for border in (low, high) if joined and x[0] < border < x[-1]]
    inside = (x >= low) & (x <= high)
    borders = np.array([border for border in ends if border not in x], dtype=np.float64)
    xs = np.concatenate([x[inside], borders])
    ys = np.concatenate([y[inside], np.interp(borders, x, y)])
    order = np.argsort(xs, kind="stable")
    return xs[order], ys[order]
