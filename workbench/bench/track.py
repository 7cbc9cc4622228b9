"""`llm-workbench bench track`: the cost of tracking, in steps per second of quickstart.

Trains the preset with and without `--track` in alternating pairs, as a user does, from the first command to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from llm.config.overrides import Overrides
from workbench.bench.report import Result, machine, spread
from workbench.bench.ui import headless_rate

PRESET = "quickstart"
DEFAULT_TRACKERS = ("tensorboard", "trackio", "csv")
COVERAGE = 0.95


def measure(home: Path, trackers: Sequence[str], pairs: int, overrides: Overrides) -> Result:
    """Steps per second of both sides, and the ratio of tracked to untracked with its interval."""
    fields = [word for path, text in overrides for word in (f"--{path}", text)]
    track = ["--track", ",".join(trackers)]
    headless_rate(home, PRESET, *fields, "--train.minutes", "0", "--train.steps", "1")  # prepares the data
    plain, tracked = [], []
    for pair in range(pairs):
        for is_tracked in (False, True) if pair % 2 == 0 else (True, False):
            rates, more = (tracked, track) if is_tracked else (plain, [])
            rates.append(headless_rate(home, PRESET, *fields, *more))
    ratios = [with_ / without for with_, without in zip(tracked, plain, strict=True)]
    return {
        "trackers": list(trackers),
        "steps_per_second": spread(plain),
        "tracked_steps_per_second": spread(tracked),
        "ratio": median(ratios),
        "interval": median_interval(ratios),
        "ratios": ratios,
        "machine": machine("torch"),
    }


def median_interval(values: Sequence[float], coverage: float = COVERAGE) -> tuple[float, float]:
    """An interval that holds the median of the distribution with at least `coverage`, or the whole range where the
    values are too few (fewer than 6 for 95 %). From order statistics: each value lies below the median with probability
    1/2 (Conover 1999, section 3.2)."""
    ordered, count = sorted(values), len(values)
    outside, cut = 0.0, 0
    while cut < count // 2:
        outside += 2 * math.comb(count, cut) / 2**count
        if outside > 1 - coverage:
            break
        cut += 1
    first = max(0, cut - 1)
    return ordered[first], ordered[count - 1 - first]


def lines_of(result: Result) -> list[str]:
    """The result as text."""
    low, high = result["interval"]
    sides = (("without tracking", "steps_per_second"), (", ".join(result["trackers"]), "tracked_steps_per_second"))
    lines = []
    for name, key in sides:
        rate = result[key]
        lines.append(f"{name:<28} {rate['median']:.2f} ({rate['least']:.2f}–{rate['most']:.2f}) steps/s")
    ratio = f"{result['ratio']:.4f} ({low:.4f}–{high:.4f})"
    return [*lines, f"{'ratio, median of pairs':<28} {ratio}, {len(result['ratios'])} pairs"]
