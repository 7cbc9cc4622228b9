"""A chart of curves in the terminal: zoom, pan, a cursor that shows values, marks, smoothing, a log axis.

chart = Chart("Loss", x_unit="step", log=True)
chart.set_data([Series("train", steps, losses), Series("validation", at, values, "accent", "points")],
               marks=[Mark(500, "checkpoint", "save")], levels=[Level(1.0, "clip")])
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from workbench.charts.axes import x_writer
from workbench.charts.chart_data import COLORS, ChartData, Level, Mark, Series
from workbench.charts.drawing import AXIS, Frame, Row, centered_text, draw, x_at
from workbench.charts.legend import lines_of
from workbench.text import one_line

SMOOTHINGS = (0.0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


class Chart(Widget, can_focus=True):
    """Curves over one x axis. The whole range is shown, and grows with the data, until the view is zoomed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"chart--{name}" for name in (AXIS, "cursor", "empty", *COLORS, *(f"{color}-dim" for color in COLORS))
    }
    DEFAULT_CSS = """
    Chart {
        width: 1fr; height: 1fr; border: round $panel-lighten-2; border-title-color: $text;
        border-subtitle-color: $text-muted;
        &:focus { border: round $primary; }
        .chart--axis { color: $foreground 60%; }
        .chart--cursor { color: $foreground; }
        .chart--empty { color: $foreground 60%; text-style: italic; }
    }
    """ + "".join(
        f"Chart .chart--{color} {{ color: ${color}; }}\n"
        f"Chart .chart--{color}-dim {{ color: ${color}; text-style: dim; }}\n"
        for color in COLORS
    )
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in", id="chart.zoom-in", key_display="+", show=False),
        Binding("minus", "zoom(2)", "Zoom out", id="chart.zoom-out", key_display="-", show=False),
        Binding("0", "reset", "Reset zoom", id="chart.reset", show=False),
        Binding("left,h", "pan(-0.25)", "Pan left", id="chart.pan-left", show=False),
        Binding("right,l", "pan(0.25)", "Pan right", id="chart.pan-right", show=False),
        Binding("end", "follow", "Follow newest", id="chart.follow", show=False),
        Binding("comma", "cursor(-1)", "Cursor left", id="chart.cursor-left", key_display=",", show=False),
        Binding("full_stop", "cursor(1)", "Cursor right", id="chart.cursor-right", key_display=".", show=False),
        Binding("less_than_sign", "cursor(-10)", "Cursor far left", id="chart.cursor-far-left", show=False),
        Binding("greater_than_sign", "cursor(10)", "Cursor far right", id="chart.cursor-far-right", show=False),
        Binding("y", "log", "Log axis", id="chart.log"),
        Binding(
            "left_square_bracket", "smoothing(-1)", "Less smoothing", id="chart.rougher", key_display="[", show=False
        ),
        Binding("right_square_bracket", "smoothing(1)", "More smoothing", id="chart.smoother", key_display="]"),
        Binding("m", "maximize", "Maximize", id="chart.maximise"),
        Binding("w", "export('csv')", "Save as table (CSV)", id="chart.csv", show=False),
        Binding("W", "export('svg')", "Save as picture (SVG)", id="chart.svg", show=False),
        Binding("backspace", "clear_cursor", "Hide cursor", id="chart.clear-cursor", show=False),
    ]

    log_axis: reactive[bool] = reactive(False)
    smoothing: reactive[float] = reactive(0.0)
    view: reactive[tuple[float, float] | None] = reactive[tuple[float, float] | None](None)
    """The visible range of x; None: all of it, growing with the data."""
    cursor: reactive[float | None] = reactive[float | None](None)
    """The x whose values the legend shows."""

    @dataclass
    class MaximizeRequested(Message):
        """This chart should fill the screen, or be one of several again."""

        chart: Chart

    @dataclass
    class CursorMoved(Message):
        """The cursor was moved; x is None when it was hidden. For charts that share a cursor."""

        chart: Chart
        x: float | None

    @dataclass
    class ViewChanged(Message):
        """The view was zoomed or panned; None shows all. `following`: it moves with the newest data."""

        chart: Chart
        view: tuple[float, float] | None
        following: bool

    class ExportRequested(Message):
        """The curves should be saved: kind is "csv" or "svg"; `subject` is the name of the run."""

        def __init__(self, chart: Chart, kind: str) -> None:
            super().__init__()
            self.chart, self.kind = chart, kind
            self.subject = str(getattr(chart.screen, "subject", ""))

    def __init__(
        self,
        title: str = "",
        *,
        x_unit: str = "step",
        log: bool = False,
        smoothing: float = 0.0,
        empty: str = "waiting for the first step",
        alone: bool = False,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`x_unit` is "step", "tokens" or "time" (seconds); `empty` is shown while there is no data;
        `alone`: the chart is the only one of its screen, and cannot be maximized."""
        super().__init__(id=id, classes=classes)
        self.set_title(title)
        self.x_unit = x_unit
        self.empty = empty
        self.alone = alone
        self.data = ChartData()
        self.draw_cost = 0.0
        """Seconds it took to draw the current picture."""
        self._following = False
        self._strips: list[Strip] | None = None
        self._styles: dict[str, Style] = {}
        self._frame = Frame([], 0, 0)
        self.set_reactive(Chart.log_axis, log)
        self.set_reactive(Chart.smoothing, smoothing)

    # Data

    def set_data(
        self,
        series: Sequence[Series],
        marks: Sequence[Mark] = (),
        levels: Sequence[Level] = (),
        *,
        x_unit: str | None = None,
    ) -> None:
        """Replace the curves. Cheap enough for a million points once a second."""
        if x_unit is not None and x_unit != self.x_unit:
            self.x_unit = x_unit
            self.set_reactive(Chart.view, None)
            self.set_reactive(Chart.cursor, None)
        self.data.replace(series, marks, levels)
        if self._following and self.view is not None:
            low, high = self.view
            newest = self.extent()[1]
            self.set_reactive(Chart.view, (newest - (high - low), newest))
        self.redraw()

    def extent(self) -> tuple[float, float]:
        """The least and the greatest x there is; (0, 1) while there is none."""
        return self.data.extent()

    @property
    def visible_cursor(self) -> float | None:
        """The cursor, None where it is outside the view: then the legend shows the newest values."""
        if self.cursor is None or self.view is None:
            return self.cursor
        return self.cursor if self.view[0] <= self.cursor <= self.view[1] else None

    def redraw(self) -> None:
        """Draw at the next refresh; a hidden chart is not drawn."""
        self._strips = None
        self._write_subtitle()
        self.refresh()

    # Drawing

    def render_line(self, y: int) -> Strip:
        if self._strips is None:
            began = time.thread_time()
            self._strips = self._draw()
            self.draw_cost = time.thread_time() - began
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips = None
        self._styles.clear()

    def on_resize(self) -> None:
        self.redraw()

    def _draw(self) -> list[Strip]:
        width, height = self.size
        if self.data.is_empty:
            return self._paint(centered_text(self.empty, width, height))
        glyphs = self.data.glyphs(self.app.no_color)
        look = {"log": self.log_axis, "unit": self.x_unit, "cursor": self.cursor}
        scene = self.data.scene(self.view or self.extent(), self.smoothing, glyphs, **look)
        legend = self._legend(width, height // 3, glyphs) if height >= 6 and width >= 16 else []
        self._frame = draw(scene, width, height - len(legend))
        return legend + self._paint(self._frame.rows)

    def _legend(self, width: int, most: int, glyphs: Sequence[str]) -> list[Strip]:
        low, high = self.view or self.extent()
        reach = (high - low) / (self._frame.columns or width) * 0.75
        entries = self.data.legend(glyphs, self.visible_cursor, self.smoothing, self.x_unit, reach)
        lines = lines_of(entries, width, most)
        return [self._strip(line).adjust_cell_length(width, self.rich_style) for line in lines]

    def _paint(self, rows: Sequence[Row]) -> list[Strip]:
        return [
            self._strip(
                [("".join(cell.glyph for cell in run), style) for style, run in groupby(row, attrgetter("style"))]
            )
            for row in rows
        ]

    def _strip(self, texts: Sequence[tuple[str, str]]) -> Strip:
        return Strip([Segment(text, self._style(name)) for text, name in texts if text])

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"chart--{name}") if name else self.rich_style
        return self._styles[name]

    def set_title(self, title: str) -> None:
        """Show a title, which also names exported files."""
        self.border_title = Content(one_line(title))
        self.name_for_files = one_line(title).partition("(")[0].strip().replace(" ", "-") or "chart"

    def _write_subtitle(self) -> None:
        notes = []
        if self.log_axis:
            notes.append("log")
        if self.smoothing:
            notes.append(f"smooth {self.smoothing:g}")
        if self.view is not None:
            write = x_writer(self.x_unit)
            notes.append(
                f"{write(self.view[0])}–{write(self.view[1])}{' following' if self._following else ''}, 0 = all"
            )
        if self.size.height < 6 and self.data.series:
            notes.insert(0, self.data.value_text(0, self.visible_cursor, self.smoothing))
        self.border_subtitle = Content(" · ".join(notes))

    # Keys and mouse

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "maximize" or not self.alone

    def _redraw_on_change(self) -> None:
        self.redraw()

    watch_log_axis = watch_smoothing = watch_view = watch_cursor = _redraw_on_change

    def action_log(self) -> None:
        """Toggle a logarithmic y axis."""
        self.log_axis = not self.log_axis

    def action_smoothing(self, by: int) -> None:
        """Change the smoothing by steps."""
        place = min(range(len(SMOOTHINGS)), key=lambda index: abs(SMOOTHINGS[index] - self.smoothing))
        self.smoothing = SMOOTHINGS[min(max(place + by, 0), len(SMOOTHINGS) - 1)]

    def action_maximize(self) -> None:
        """Ask the screen to maximize or restore this chart."""
        self.post_message(self.MaximizeRequested(self))

    def action_export(self, kind: str) -> None:
        """Save the chart as a file."""
        self.post_message(self.ExportRequested(self, kind))

    def action_reset(self) -> None:
        """Show the whole range."""
        self._change_view(None)

    def action_follow(self) -> None:
        """Keep the zoom and follow the newest data."""
        if self.view is not None:
            self.action_pan(1e9)

    def action_zoom(self, factor: float, about: float | None = None) -> None:
        """Show `factor` times as much, around `about`, the cursor, or the middle."""
        extent = self.extent()
        low, high = self.view or extent
        center = about if about is not None else self.visible_cursor
        if center is None:
            center = (low + high) / 2
        center = min(max(center, low), high)
        least = max((extent[1] - extent[0]) * 1e-6, 1e-9)
        span = max((high - low) * factor, least)
        if span >= extent[1] - extent[0]:
            self._change_view(None)
            return
        start = center - (center - low) / max(high - low, least) * span
        start = min(max(start, extent[0]), extent[1] - span)
        self._change_view((start, start + span))

    def action_pan(self, share: float) -> None:
        """Move by a share of the width; at the right end the view follows the newest data."""
        if self.view is None:
            return
        first, newest = self.extent()
        span = self.view[1] - self.view[0]
        start = min(max(self.view[0] + share * span, first), newest - span)
        self._change_view((start, start + span), following=start + span >= newest)

    def action_cursor(self, columns: int) -> None:
        """Move the cursor by columns, onto the nearest point of the first curve."""
        low, high = self.view or self.extent()
        step = (high - low) / max(1, self._frame.columns)
        at = self.visible_cursor
        if at is None:
            self._read(high if columns < 0 else low)
        else:
            self._read(min(max(at + columns * step, low), high), beyond=at, forward=columns > 0)

    def action_clear_cursor(self) -> None:
        """Hide the cursor."""
        self.cursor = None
        self.post_message(self.CursorMoved(self, None))

    def set_view(self, view: tuple[float, float] | None, following: bool = False) -> None:
        """Show a range of x, for charts that share a view."""
        self._following = following and view is not None
        self.view = view
        self._write_subtitle()

    def _change_view(self, view: tuple[float, float] | None, following: bool = False) -> None:
        self.set_view(view, following)
        self.post_message(self.ViewChanged(self, view, self._following))

    def _read(self, x: float, beyond: float | None = None, forward: bool = True) -> None:
        """Put the cursor on the point nearest to x, and at least one point beyond `beyond`."""
        nearest = self.data.nearest(x, beyond, forward)
        if nearest is not None:
            self.cursor = nearest
            self.post_message(self.CursorMoved(self, nearest))

    def _x_under(self, event: events.MouseEvent) -> float | None:
        offset = event.get_content_offset(self)
        if offset is None or not self._frame.columns:
            return None
        low, high = self.view or self.extent()
        return x_at(offset.x - self._frame.left, low, high, self._frame.columns)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self.capture_mouse()
        self._follow_mouse(event)

    def on_mouse_up(self) -> None:
        self.release_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button:
            self._follow_mouse(event)

    def _follow_mouse(self, event: events.MouseEvent) -> None:
        x = self._x_under(event)
        if x is not None:
            self._read(x)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(event, 0.8)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, 1.25)

    def _wheel(self, event: events.MouseEvent, factor: float) -> None:
        """Zoom around the pointer if the chart is focused; else the wheel scrolls the container."""
        if self.has_focus:
            event.stop()
            self.action_zoom(factor, self._x_under(event))
