"""Charts on a screen that has several: their keys work wherever the focus is."""

from __future__ import annotations

from dataclasses import replace

from textual.binding import Binding

from workbench.charts.chart import Chart

CHART_KEYS = [
    replace(binding, action=f"on_charts({binding.action!r})", show=False)
    for binding in Chart.BINDINGS
    if isinstance(binding, Binding)
]
"""The keys of a chart, as bindings of the screen, whose `action_on_charts` passes them on."""


class ScreenChart(Chart, inherit_bindings=False):
    """A chart whose keys are bindings of its screen."""
