"""The charts of a run, described once: `CHARTS` are those of the Train screen, `OVERLAYS` those that compare runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from workbench.charts.chart_data import Level, Mark, Series
from workbench.charts.curves import RunCurves, RunMark
from workbench.formatting import format_number

INCIDENTS = ("skip", "rollback")
OTHER_COLORS = ("success", "secondary", "error", "warning")
"""The colors of other runs in a chart of the Train screen, in order; the shown run keeps the first two."""


@dataclass(frozen=True)
class SeriesSpec:
    """A curve: its name in the legend, and the table and column of `RunCurves` that it draws."""

    name: str
    table: Literal["steps", "validation", "core", "metrics", "answers"]
    column: str
    color: str
    smooth: bool = True

    def of(self, curves: RunCurves, axis: str) -> Series:
        """The curve of one run; evaluations are single points."""
        table = curves.tables[self.table]
        kind: Literal["line", "points"] = "line" if self.table in ("steps", "metrics") else "points"
        return Series(self.name, curves.x_of(table, axis), table[self.column], self.color, kind, self.smooth)


@dataclass(frozen=True)
class ChartSpec:
    """A chart: its widget id, its title and its curves. `marks` are the kinds of marks it shows, of which the last is
    drawn where several share a column; `shows_clip`: a level shows the norm at which gradients are clipped;
    `is_smoothed`: the smoothing of the settings applies at first."""

    id: str
    title: str
    series: tuple[SeriesSpec, ...]
    marks: tuple[str, ...] = ()
    shows_clip: bool = False
    is_smoothed: bool = False


TRAIN = SeriesSpec("train", "steps", "loss", "primary")
VALIDATION = SeriesSpec("validation", "validation", "validation_loss", "accent")
BITS = SeriesSpec("bits per byte", "validation", "bits_per_byte", "accent")
RATE = SeriesSpec("lr", "steps", "lr", "success", smooth=False)
NORM = SeriesSpec("norm", "steps", "grad_norm", "secondary")
SPEED = SeriesSpec("tokens/s", "steps", "tokens_per_second", "accent")
CORE = SeriesSpec("CORE", "core", "core_metric", "success")

LOSS_MARKS = ("save", "setting", "best", *INCIDENTS)
CORE_CHART = ChartSpec("core-chart", "CORE metric", (CORE,))
METRICS = (
    SeriesSpec("reward", "metrics", "reward", "success"),
    SeriesSpec("margin", "metrics", "margin", "accent"),
    SeriesSpec("accuracy", "metrics", "accuracy", "secondary"),
)
METRICS_CHART = ChartSpec("core-chart", "implicit reward and accuracy", METRICS)
ANSWERS = SeriesSpec("exact answers", "answers", "exact_answers", "warning")
ANSWERS_CHART = ChartSpec("core-chart", "exact answers", (ANSWERS,))
REWARD_CHART = ChartSpec("loss-chart", "reward and exact answers", (METRICS[0], ANSWERS), LOSS_MARKS, is_smoothed=True)
KL = SeriesSpec("KL", "metrics", "kl", "accent")
ENTROPY = SeriesSpec("entropy", "metrics", "entropy", "secondary")
KL_CHART = ChartSpec("core-chart", "KL to the reference, entropy (nats per token)", (KL, ENTROPY))
CHARTS = (
    ChartSpec("loss-chart", "loss (nats per token)", (TRAIN, VALIDATION), LOSS_MARKS, is_smoothed=True),
    ChartSpec("lr-chart", "learning rate", (RATE,), marks=("setting",)),
    ChartSpec("norm-chart", "gradient norm", (NORM,), INCIDENTS, shows_clip=True),
    ChartSpec("speed-chart", "tokens per second", (SPEED,)),
    CORE_CHART,
)
OVERLAYS = (
    ChartSpec("validation_loss", "validation loss (nats per token)", (VALIDATION,)),
    ChartSpec("loss", "training loss (nats per token)", (TRAIN,)),
    ChartSpec("bits_per_byte", "bits per byte of held-out text", (BITS,)),
    ChartSpec("lr", "learning rate", (RATE,)),
    ChartSpec("grad_norm", "gradient norm", (NORM,)),
    ChartSpec("tokens_per_second", "tokens per second", (SPEED,)),
)


def chart_of_stage(chart: ChartSpec, curves: RunCurves) -> ChartSpec:
    """What the place of `chart` shows for the stage of a run: reinforcement has a reward instead of a loss, and instead
    of CORE, which fine-tuning does not measure, there are metrics of the stage and exact answers."""
    if curves.is_reinforced:
        return {CHARTS[0]: REWARD_CHART, CORE_CHART: KL_CHART}.get(chart, chart)
    if chart is not CORE_CHART or not (len(curves.metrics) or len(curves.answers)):
        return chart
    if not len(curves.metrics):
        return ANSWERS_CHART
    return replace(METRICS_CHART, series=(*METRICS, ANSWERS)) if len(curves.answers) else METRICS_CHART


@dataclass(frozen=True)
class Contents:
    """The curves of one chart, with its marks and levels."""

    series: list[Series]
    marks: list[Mark] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)


def contents(chart: ChartSpec, curves: RunCurves, axis: str, clip: float, others: Sequence[RunCurves] = ()) -> Contents:
    """What a chart shows of a run, and of other runs with it; gradients are clipped at the norm `clip`, 0 for never."""
    series = [one.of(curves, axis) for one in chart.series]
    if others:  # a color stands for a run then, and raw values would be too many lines
        series[0] = replace(series[0], color="primary", raw=False)
    for other, color in zip(others, OTHER_COLORS, strict=False):
        for spec in chart.series:
            name = f"{other.run.name} validation" if spec is VALIDATION else other.run.name
            series.append(replace(spec.of(other, axis), name=name, color=color, raw=False))
    levels = [Level(clip, "clip")] if chart.shows_clip and clip else []
    return Contents(series, marks(curves, axis, chart.marks), levels)


def overlay(chart: ChartSpec, runs: Sequence[RunCurves], axis: str, colors: Sequence[str]) -> list[Series]:
    """The first curve of a chart for each of several runs, as lines; evaluations are not smoothed."""
    (spec, *_) = chart.series
    smooth = spec.smooth and spec.table == "steps"
    return [
        replace(spec.of(run, axis), name=run.run.name, color=color, kind="line", smooth=smooth)
        for run, color in zip(runs, colors, strict=False)
    ]


def marks(curves: RunCurves, axis: str, kinds: Sequence[str]) -> list[Mark]:
    """The marks of these kinds, sorted by kind: the last of several in one column is drawn."""
    chosen = [mark for mark in curves.marks if mark.kind in kinds]
    if "best" in kinds and curves.best_evaluation is not None:
        step, loss = curves.best_evaluation
        chosen.append(RunMark(step, "best", f"best validation {format_number(loss)}"))
    chosen.sort(key=lambda mark: kinds.index(mark.kind))
    at = curves.x_at(np.array([mark.step for mark in chosen], dtype=np.float64), axis)
    return [Mark(float(x), mark.text, mark.kind) for x, mark in zip(at, chosen, strict=True)]
