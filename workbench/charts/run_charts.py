"""What each chart of a run shows, on an axis of steps, tokens or training time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workbench.charts.chart_data import Level, Mark, Series
from workbench.charts.curves import RunCurves
from workbench.formatting import format_number

LOSS, RATE, NORM, SPEED, CORE = "loss-chart", "lr-chart", "norm-chart", "speed-chart", "core-chart"
INCIDENTS = ("skip", "rollback")
BESIDE_COLOURS = ("success", "secondary", "error", "warning")
"""Of the runs beside the one that is shown, in their order; it keeps its own two."""


@dataclass(frozen=True)
class Contents:
    """The curves of one chart, with its marks and levels."""

    series: list[Series]
    marks: list[Mark] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)


def contents(chart: str, curves: RunCurves, unit: str, clip: float, others: Sequence[RunCurves] = ()) -> Contents:
    """What the chart with the id `chart` shows of a run, and of others beside it; gradients are clipped at the norm
    `clip`, 0 for never."""
    shown = of_one_run(chart, curves, unit, clip)
    if others:  # then a colour stands for a run, and there are lines enough without the raw values
        shown.series[0] = replace(shown.series[0], colour="primary", raw=False)
    for other, colour in zip(others, BESIDE_COLOURS, strict=False):
        for one in of_one_run(chart, other, unit, 0.0).series:
            name = f"{other.run.name} validation" if one.name == "validation" else other.run.name
            shown.series.append(replace(one, name=name, colour=colour, raw=False))
    return shown


def of_one_run(chart: str, curves: RunCurves, unit: str, clip: float) -> Contents:
    steps, x = curves.steps, curves.x_of(curves.steps, unit)
    if chart == LOSS:
        validation = curves.validation
        series = [
            Series("train", x, steps["loss"]),
            Series("validation", curves.x_of(validation, unit), validation["validation_loss"], "accent", "points"),
        ]
        return Contents(series, in_order(marks(curves, unit) + best_mark(curves, unit)))
    if chart == RATE:
        return Contents([Series("lr", x, steps["lr"], "success", smooth=False)], marks(curves, unit, ("knob",)))
    if chart == NORM:
        levels = [Level(clip, "clip")] if clip else []
        return Contents([Series("norm", x, steps["grad_norm"], "secondary")], marks(curves, unit, INCIDENTS), levels)
    if chart == CORE:
        at = curves.x_of(curves.core, unit)
        return Contents([Series("CORE", at, curves.core["core_metric"], "success", "points")])
    return Contents([Series("tokens/s", x, steps["tokens_per_second"], "accent")])


def marks(curves: RunCurves, unit: str, kinds: tuple[str, ...] = ()) -> list[Mark]:
    """What happened to the run; only that of `kinds`, where any are given."""
    chosen = [mark for mark in curves.marks if not kinds or mark.kind in kinds]
    at = curves.x_at(np.array([mark.step for mark in chosen], dtype=np.float64), unit)
    return [Mark(float(x), mark.text, mark.kind) for x, mark in zip(at, chosen, strict=True)]


def in_order(marks: list[Mark]) -> list[Mark]:
    """Of several marks in one column the last is drawn: what went wrong before what went well, saves last of all."""
    return sorted(marks, key=lambda mark: ("save", "knob", "best", *INCIDENTS).index(mark.kind))


def best_mark(curves: RunCurves, unit: str) -> list[Mark]:
    """The best evaluation, where there is one."""
    best = curves.best_evaluation
    if best is None:
        return []
    step, loss = best
    (x,) = curves.x_at(np.array([float(step)]), unit)
    return [Mark(float(x), f"best validation {format_number(loss)}", "best")]
