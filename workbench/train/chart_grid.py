"""The charts of a run: they share one view and one cursor, and the chart keys act on the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid
from textual.events import DescendantFocus
from textual.message import Message

from workbench.charts.chart import Chart
from workbench.charts.curves import RunCurves
from workbench.charts.run_charts import CHARTS, CORE_CHART, chart_of_stage, contents
from workbench.ui.host import host_of

CHART_KEYS = [
    replace(binding, action=f"on_charts({binding.action!r})", show=False)
    for binding in Chart.BINDINGS
    if isinstance(binding, Binding)
]
"""The keys of a chart, as bindings of the screen, whose `action_on_charts` passes them on."""


class ScreenChart(Chart, inherit_bindings=False):
    """A chart whose keys are bindings of its screen."""


class ChartGrid(Grid):
    """All charts, or only the chosen one where there is room for one. The screen has the classes `one-chart`, and
    `-core` once there is a CORE metric, exact answers or metrics of a stage."""

    class Revealed(Message):
        """Hidden charts, which are not kept up to date, became visible."""

    def compose(self) -> ComposeResult:
        smoothing = host_of(self).settings.smoothing
        for spec in CHARTS:
            chart = ScreenChart(spec.title, smoothing=smoothing if spec.is_smoothed else 0.0, id=spec.id)
            yield chart.set_class(spec is CHARTS[0], "chosen")

    @property
    def chosen(self) -> Chart:
        """The chart that the chart keys act on: the one that had the focus last."""
        return self.query_one("Chart.chosen", Chart)

    @property
    def draw_cost(self) -> float:
        """Seconds spent drawing the visible charts."""
        return sum(chart.draw_cost for chart in self.query(Chart) if chart.display)

    def clear(self) -> None:
        """Show nothing, for another run."""
        self.screen.remove_class("-core")
        for chart in self.query(Chart):
            chart.action_reset()
            chart.cursor = None
            chart.set_data([])

    def draw(self, curves: RunCurves, others: Sequence[RunCurves], axis: str, clip: float, empty: str) -> None:
        """Fill the charts in view. Gradients are clipped at norm `clip`; `empty` is shown where there is no data."""
        has_more = len(curves.core) or len(curves.metrics) or len(curves.answers)
        if has_more and not self.screen.has_class("-core"):
            self.screen.add_class("-core")
        for place in CHARTS:
            spec = chart_of_stage(place, curves)
            chart = self.query_one(f"#{spec.id}", Chart)
            chart.set_title(spec.title)
            if chart.display:
                shown = contents(spec, curves, axis, clip, others)
                chart.empty = empty
                chart.set_data(shown.series, shown.marks, shown.levels, x_unit=axis)

    def choose_next(self) -> None:
        """Show the next chart where there is room for one, else focus it."""
        has_core = self.screen.has_class("-core")
        charts = [chart for chart in self.query(Chart) if chart.id != CORE_CHART.id or has_core]
        chosen = charts[(charts.index(self.chosen) + 1) % len(charts)]
        self._choose(chosen)
        chosen.focus()
        self._reveal()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        if isinstance(event.widget, Chart):
            self._choose(event.widget)

    def _choose(self, chosen: Chart) -> None:
        for chart in self.query(Chart):
            chart.set_class(chart is chosen, "chosen")

    def _reveal(self) -> None:
        self.call_after_refresh(self.post_message, self.Revealed())

    @on(Chart.MaximizeRequested)
    def _maximize(self, event: Chart.MaximizeRequested) -> None:
        self._choose(event.chart)
        self.screen.toggle_class("one-chart")
        self._reveal()

    @on(Chart.CursorMoved)
    def _move_cursors(self, event: Chart.CursorMoved) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.cursor = event.x

    @on(Chart.ViewChanged)
    def _move_views(self, event: Chart.ViewChanged) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.set_view(event.view, event.following)
