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
"""A chart's keys, for the screen to take among its own and pass on by its `action_on_charts`."""


class ScreenChart(Chart, inherit_bindings=False):
    """A chart that leaves its keys to the screen around it."""
