"""Numbers, sizes, durations, ages and progress as text. Headless: screens and commands share it."""

from __future__ import annotations

import math
import re

from llm.events import Progress


def format_number(value: float) -> str:
    """A measured value in about seven characters at most: 1.235, 3e-4, 123.5k."""
    if math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 10_000:
        return format_count(value)
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if size < 1 else f"{value:.3f}" if size < 100 else f"{value:.1f}"


def format_count(value: float, digits: int = 4) -> str:
    """A count with k, M, G or T, rounded to `digits` significant digits: 124M."""
    value = float(f"{value:.{digits}g}")
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def format_flops(flops_per_second: float) -> str:
    """A speed to two digits: 50 GFLOP/s."""
    text = format_count(flops_per_second, digits=2)
    return re.sub(r"([A-Z]?)$", r" \1FLOP/s", text, count=1)


def format_size(size_bytes: float) -> str:
    """Bytes in decimal units: 1.5 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """Seconds as 42s, 3m 05s, 2h 07m or 3d 04h."""
    if not math.isfinite(seconds):
        return "—"
    if abs(seconds) < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def format_age(seconds: float) -> str:
    """How long ago, in the largest whole unit: 5s, 12m, 3h, 9d."""
    seconds = max(0.0, seconds)
    for span, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= span:
            return f"{seconds // span:.0f}{unit}"
    return f"{seconds:.0f}s"


def plural(count: int, noun: str) -> str:
    """A count and its noun: 1 token, 2 tokens."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def describe_progress(progress: Progress) -> str:
    """A stage of work, how much of it is done, and its rate."""
    if not progress.total:
        return f"{progress.stage} {amount(progress.done, progress.unit)}" if progress.done else progress.stage
    share = f"{100 * progress.done / progress.total:.0f}%"
    done = amount(progress.done, "MB" if progress.unit == "MB" else "")
    text = f"{progress.stage} {share} ({done} of {amount(progress.total, progress.unit)})"
    if not progress.rate:
        return text
    left = format_duration(round((progress.total - progress.done) / progress.rate))
    return f"{text}, {amount(progress.rate, progress.unit)}/s, {left} left"


def amount(value: float, unit: str) -> str:
    """A number with its unit; megabytes in the fitting unit of bytes."""
    if unit == "MB":
        return format_size(value * 1e6)
    return f"{format_count(value)} {unit}" if unit else format_count(value)
