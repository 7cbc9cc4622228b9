"""A screen of several charts: they move together, and the keys act on one of them."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.events import DescendantFocus

from workbench.charts.chart import Chart
from workbench.charts.run_charts import CORE_CHART
from workbench.charts.screen_chart import CHART_KEYS
from workbench.ui.screen import WorkbenchScreen


class ChartsScreen(WorkbenchScreen):
    """Passes the keys of a chart on to the chosen one, shows it alone where there is room for one only, and lays all
    charts along one view and one cursor. What is in them is for the subclass to say."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "next_chart", "Next chart", id="train.next-chart", show=False),
        Binding("escape", "restore", "All charts", id="train.restore", show=False),
        *CHART_KEYS,
    ]

    def draw_again(self) -> None:
        """Fill the charts that are in sight: they may have been hidden when the others were filled."""
        raise NotImplementedError

    def action_next_chart(self) -> None:
        """Show the next chart where there is room for one; otherwise go to it."""
        charts = [chart for chart in self.query(Chart) if chart.id != CORE_CHART.id or self.has_class("-core")]
        place = next(index for index, chart in enumerate(charts) if chart.has_class("chosen"))
        chosen = charts[(place + 1) % len(charts)]
        self._choose(chosen)
        chosen.focus()
        self.call_after_refresh(self.draw_again)

    def action_restore(self) -> None:
        self.remove_class("one-chart")

    async def action_on_charts(self, action: str) -> None:
        """A chart's key: for the chosen chart, which is the one that had the focus last."""
        await self.query_one("Chart.chosen", Chart).run_action(action)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        if isinstance(event.widget, Chart):
            self._choose(event.widget)

    def _choose(self, chosen: Chart) -> None:
        """The chart that the chart keys act on, and the one that is shown where there is room for one only."""
        for chart in self.query(Chart):
            chart.set_class(chart is chosen, "chosen")

    @on(Chart.MaximiseRequested)
    def _maximise(self, event: Chart.MaximiseRequested) -> None:
        self._choose(event.chart)
        self.toggle_class("one-chart")
        self.call_after_refresh(self.draw_again)

    @on(Chart.CursorMoved)
    def _cursor_moved(self, event: Chart.CursorMoved) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.cursor = event.x

    @on(Chart.ViewChanged)
    def _view_changed(self, event: Chart.ViewChanged) -> None:
        for chart in self.query(Chart):
            if chart is not event.chart:
                chart.look_along(event.view, event.following)
