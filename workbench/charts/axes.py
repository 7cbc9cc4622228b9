"""The ticks of an axis and their labels."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.formatting import format_count, format_duration, format_number

Ticks = list[tuple[float, str]]


def x_writer(unit: str) -> Callable[[float], str]:
    """How a position on the x axis is written in full: steps, tokens, or time in seconds."""
    if unit == "time":
        return format_duration
    return format_count if unit == "tokens" else lambda value: f"{value:,.0f}"


def nice_step(span: float, most: int) -> float:
    """The least of 1, 2, 5 × 10^k that divides `span` into at most `most` parts."""
    raw = span / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    return next((power * factor for factor in (1, 2, 5) if power * factor >= raw * (1 - 1e-9)), power * 10)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, min(last, first + 1000) + 1)]


def y_ticks(low: float, high: float, most: int, log: bool) -> Ticks:
    """Ticks of the y axis. With `log`, limits and positions are powers of ten, labels the values themselves."""
    if most < 1 or not high > low:
        return []
    if not log:
        step = nice_step(high - low, most)
        places = max(0, -math.floor(math.log10(step)))
        plain = 1e-4 <= max(abs(low), abs(high)) < 10_000 and places <= 5
        values = _multiples(low, high, step)
        return [(value, f"{value:.{places}f}" if plain else format_number(value)) for value in values]
    if high - low > most * 0.5:
        powers = _multiples(low, high, max(1.0, math.ceil((high - low) / most)))
        return [(power, f"{10**power:g}" if -4 < power < 6 else f"1e{power:.0f}") for power in powers]
    return _ticks_within_decades(low, high, most)


def _ticks_within_decades(low: float, high: float, most: int) -> Ticks:
    """For a logarithmic axis of a decade or so: 1, 2, 5 where they suffice, else round values evenly spread."""
    start, stop = math.floor(low), math.ceil(high)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in range(start, stop + 1) for factor in factors]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if 2 <= len(inside) <= most:
            return [(math.log10(value), number_short(value)) for value in inside]
    bottom, top = 10.0**low, 10.0**high
    step = nice_step(top - bottom, most)
    inside = [value for value in _multiples(bottom, top, step) if value > 0]
    return [(math.log10(value), number_short(value)) for value in inside]


def number_short(value: float) -> str:
    """A round value without trailing zeros."""
    return f"{value:.6g}" if 1e-4 <= abs(value) < 10_000 else format_number(value)


def x_ticks(low: float, high: float, most: int, unit: str) -> Ticks:
    """Ticks of the x axis, for steps, tokens, or time in seconds."""
    if most < 1 or not high > low:
        return []
    if unit != "time":
        step = nice_step(high - low, most)
        return [(value, format_count(value)) for value in _multiples(low, high, max(step, 1.0))]
    raw = (high - low) / most
    spans = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
    step = next((float(span) for span in spans if span >= raw), nice_step((high - low) / 86_400, most) * 86_400)
    return [(value, _clock(value, step)) for value in _multiples(low, high, step)]


def _clock(seconds: float, step: float) -> str:
    if seconds == 0:
        return "0"
    if step >= 86_400:
        return f"{seconds / 86_400:g}d"
    if step >= 3600:
        return f"{seconds / 3600:g}h"
    minutes, rest = divmod(round(seconds), 60)
    if step >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}" if minutes >= 60 else f"{minutes}m"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"
