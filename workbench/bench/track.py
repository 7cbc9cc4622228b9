"""`llm-workbench bench track`: the cost of tracking, in steps per second of quickstart.

Trains the preset with and without `--track` in alternating pairs, as a user does, from the first command to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llm.config.overrides import Overrides
from workbench.bench.report import Result, Stats, alternate, machine, ratios, spread
from workbench.bench.ui import headless_rate

PRESET = "quickstart"
DEFAULT_TRACKERS = ("tensorboard", "trackio", "csv")


def measure(home: Path, trackers: Sequence[str], pairs: int, overrides: Overrides) -> Result:
    """Steps per second without and with trackers, and the ratio of the second to the first."""
    fields = [word for path, text in overrides for word in (f"--{path}", text)]
    track = ["--track", ",".join(trackers)]
    headless_rate(home, PRESET, *fields, "--train.minutes", "0", "--train.steps", "20")  # prepares the data
    plain: list[float] = []
    tracked: list[float] = []
    for rates, options in alternate(((plain, []), (tracked, track)), pairs):
        rates.append(headless_rate(home, PRESET, *fields, *options))
    return {
        "trackers": list(trackers),
        "steps_per_second": spread(plain),
        "tracked_steps_per_second": spread(tracked),
        "ratio": asdict(Stats.of(ratios(tracked, plain))),
        "machine": machine("torch"),
    }


def lines_of(result: Result) -> list[str]:
    """The printed result."""
    ratio = result["ratio"]
    low, high = ratio["interval"]
    sides = (("without tracking", "steps_per_second"), (", ".join(result["trackers"]), "tracked_steps_per_second"))
    lines = []
    for name, key in sides:
        rate = result[key]
        lines.append(f"{name:<28} {rate['median']:.2f} ({rate['least']:.2f}–{rate['most']:.2f}) steps/s")
    shown = f"{ratio['median']:.4f} [{low:.4f}–{high:.4f}, {ratio['confidence']:.0%}]"
    return [*lines, f"{'ratio, median of pairs':<28} {shown}, {len(ratio['values'])} pairs"]
