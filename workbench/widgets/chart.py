"""A chart of curves in the terminal: zoom, pan, a cursor that reads values out, marks, smoothing, a log axis.

chart = Chart("Loss", x_unit="step", log=True)
chart.set_data([Series("train", steps, losses), Series("validation", at, values, "accent", "points")],
               marks=[Mark(500, "checkpoint", "save")], levels=[Level(1.0, "clip")])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from workbench.text import one_line
from workbench.widgets.axes import number, x_writer
from workbench.widgets.picture import AXIS, BLANK, Cell, Curve, Flag, Frame, Row, Scene, draw, x_at
from workbench.widgets.reduce import Floats, smooth, tidy

COLOURS = ("primary", "accent", "success", "secondary", "error", "warning")
"""The colours a series may have, by the theme's names, in the order an overlay of several runs takes them."""

SMOOTHINGS = (0.0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
GLYPHS = ("", "+", "x", "o", "*", "#")  # with NO_COLOR, lines are told apart by what they are drawn with
MARK_GLYPHS = {"save": "▪", "evaluate": "●", "best": "★", "knob": "◆", "skip": "✗", "rollback": "↶", "start": "▸"}
MARK_STYLES = {"best": "success", "knob": "accent", "skip": "error", "rollback": "error"}


@dataclass(frozen=True)
class Series:
    """One curve. `x` and `y` have shape (N,); NaN and infinite values of y are gaps. `smooth`: whether smoothing
    applies to it. `kind` "points" draws single points, as for evaluations."""

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    colour: str = "primary"
    kind: Literal["line", "points"] = "line"
    smooth: bool = True


@dataclass(frozen=True)
class Mark:
    """Something that happened at x: a save, an evaluation, a knob change, a skipped step."""

    x: float
    label: str
    kind: str = "note"


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as the norm at which gradients are clipped."""

    y: float
    label: str
    colour: str = "warning"


class Chart(Widget, can_focus=True):
    """Curves over one x axis. The whole range is shown, and follows the data, until one zooms in."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"chart--{name}" for name in (AXIS, "cursor", "empty", *COLOURS, *(f"{colour}-dim" for colour in COLOURS))
    }
    DEFAULT_CSS = """
    Chart {
        width: 1fr; height: 1fr; border: round $panel-lighten-2; border-title-color: $text;
        border-subtitle-color: $text-muted;
        &:focus { border: round $primary; }
        .chart--axis { color: $foreground 60%; }
        .chart--cursor { color: $foreground; }
        .chart--empty { color: $foreground 60%; text-style: italic; }
        .chart--primary { color: $primary; }
        .chart--accent { color: $accent; }
        .chart--success { color: $success; }
        .chart--secondary { color: $secondary; }
        .chart--error { color: $error; }
        .chart--warning { color: $warning; }
        .chart--primary-dim { color: $primary; text-style: dim; }
        .chart--accent-dim { color: $accent; text-style: dim; }
        .chart--success-dim { color: $success; text-style: dim; }
        .chart--secondary-dim { color: $secondary; text-style: dim; }
        .chart--error-dim { color: $error; text-style: dim; }
        .chart--warning-dim { color: $warning; text-style: dim; }
    }
    """
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in", id="chart.zoom-in", key_display="+", show=False),
        Binding("minus", "zoom(2)", "Zoom out", id="chart.zoom-out", key_display="-", show=False),
        Binding("0", "reset", "Whole range", id="chart.reset", show=False),
        Binding("left,h", "pan(-0.25)", "Pan left", id="chart.pan-left", show=False),
        Binding("right,l", "pan(0.25)", "Pan right", id="chart.pan-right", show=False),
        Binding("end", "follow", "To the newest", id="chart.follow", show=False),
        Binding("comma", "cursor(-1)", "Cursor left", id="chart.cursor-left", key_display=",", show=False),
        Binding("full_stop", "cursor(1)", "Cursor right", id="chart.cursor-right", key_display=".", show=False),
        Binding("less_than_sign", "cursor(-10)", "Cursor far left", id="chart.cursor-far-left", show=False),
        Binding("greater_than_sign", "cursor(10)", "Cursor far right", id="chart.cursor-far-right", show=False),
        Binding("y", "log", "Log axis", id="chart.log"),
        Binding("left_square_bracket", "smoothing(-1)", "Less smooth", id="chart.rougher", key_display="[", show=False),
        Binding("right_square_bracket", "smoothing(1)", "Smoother", id="chart.smoother", key_display="]"),
        Binding("m", "maximise", "Maximise", id="chart.maximise"),
        Binding("backspace", "clear_cursor", "No cursor", id="chart.clear-cursor", show=False),
    ]

    log_axis: reactive[bool] = reactive(False)
    smoothing: reactive[float] = reactive(0.0)
    view: reactive[tuple[float, float] | None] = reactive[tuple[float, float] | None](None)
    """The visible range of x; None: all of it, growing with the data."""
    cursor: reactive[float | None] = reactive[float | None](None)
    """Where the read-out reads, as x."""

    class MaximiseRequested(Message):
        """The person wants this chart to fill the screen, or to be one of several again."""

        def __init__(self, chart: Chart) -> None:
            super().__init__()
            self.chart = chart

        @property
        def control(self) -> Chart:
            return self.chart

    class CursorMoved(Message):
        """The cursor was moved by the person; x is None when it was taken away. For charts that move together."""

        def __init__(self, chart: Chart, x: float | None) -> None:
            super().__init__()
            self.chart, self.x = chart, x

        @property
        def control(self) -> Chart:
            return self.chart

    class ViewChanged(Message):
        """The person zoomed or panned; view is None when all is shown again."""

        def __init__(self, chart: Chart, view: tuple[float, float] | None) -> None:
            super().__init__()
            self.chart, self.view = chart, view

        @property
        def control(self) -> Chart:
            return self.chart

    def __init__(
        self,
        title: str = "",
        *,
        x_unit: str = "step",
        log: bool = False,
        smoothing: float = 0.0,
        empty: str = "waiting for the first step",
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`x_unit` is "step", "tokens" or "time" (seconds); `empty` is shown while there is nothing to draw."""
        super().__init__(id=id, classes=classes)
        self.border_title = Content(one_line(title))
        self.x_unit = x_unit
        self.empty = empty
        self._series: list[Series] = []
        self._smoothed: dict[str, Floats] = {}
        self._marks: tuple[Mark, ...] = ()
        self._levels: tuple[Level, ...] = ()
        self._following = False
        self._strips: list[Strip] | None = None
        self._styles: dict[str, Style] = {}
        self._frame = Frame([], 0, 0)
        self.set_reactive(Chart.log_axis, log)
        self.set_reactive(Chart.smoothing, smoothing)

    # What is shown

    def set_data(
        self,
        series: Sequence[Series],
        marks: Sequence[Mark] = (),
        levels: Sequence[Level] = (),
        *,
        x_unit: str | None = None,
    ) -> None:
        """Show these curves in place of the ones before. Cheap enough for a million points, once a second."""
        if x_unit is not None and x_unit != self.x_unit:
            self.x_unit = x_unit
            self.set_reactive(Chart.view, None)
            self.set_reactive(Chart.cursor, None)
        self._series = [
            Series(one_line(one.name), *tidy(one.x, one.y), colour=one.colour, kind=one.kind, smooth=one.smooth)
            for one in series
        ]
        self._smoothed.clear()
        self._marks, self._levels = tuple(marks), tuple(levels)
        if self._following and self.view is not None:
            low, high = self.view
            newest = self.extent()[1]
            self.set_reactive(Chart.view, (newest - (high - low), newest))
        self.redraw()

    def extent(self) -> tuple[float, float]:
        """The least and the greatest x there is; (0, 1) while there is none."""
        filled = [one.x for one in self._series if len(one.x)]
        if not filled:
            return 0.0, 1.0
        return min(float(x[0]) for x in filled), max(float(x[-1]) for x in filled)

    def redraw(self) -> None:
        """Draw again at the next refresh; nothing is drawn while the chart is not visible."""
        self._strips = None
        self._write_subtitle()
        self.refresh()

    def smoothed(self, one: Series) -> Floats:
        """The values of a series as drawn: smoothed where smoothing is on and applies to it."""
        if not (self.smoothing and one.smooth and one.kind == "line"):
            return cast(Floats, one.y)
        key = f"{one.name}\n{one.colour}"
        if key not in self._smoothed:
            self._smoothed[key] = smooth(cast(Floats, one.y), self.smoothing)
        return self._smoothed[key]

    # Drawing

    def render_line(self, y: int) -> Strip:
        if self._strips is None:
            self._strips = self._draw()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips = None
        self._styles.clear()

    def on_resize(self) -> None:
        self.redraw()

    def _draw(self) -> list[Strip]:
        width, height = self.size
        if not any(len(one.x) for one in self._series):
            return self._painted(self._empty_rows(width, height))
        with_legend = height >= 6 and width >= 16
        self._frame = draw(self._scene(), width, height - with_legend)
        strips = self._painted(self._frame.rows)
        return [self._legend(width), *strips] if with_legend else strips

    def _empty_rows(self, width: int, height: int) -> list[Row]:
        rows: list[Row] = [[BLANK] * width for _ in range(height)]
        text = self.empty[:width]
        if height and text:
            start = (width - len(text)) // 2
            rows[height // 2][start : start + len(text)] = [Cell(glyph, "empty") for glyph in text]
        return rows

    def _scene(self) -> Scene:
        low, high = self.view or self.extent()
        if high <= low:
            low, high = low - 0.5, high + 0.5
        curves: list[Curve] = []
        lines = 0
        for one in self._series:
            points = one.kind == "points"
            glyph = "●" if points else self._line_glyph(lines)
            lines += not points
            drawn = self.smoothed(one)
            if drawn is not one.y:
                curves.insert(0, Curve(cast(Floats, one.x), cast(Floats, one.y), f"{one.colour}-dim"))
            curves.append(Curve(cast(Floats, one.x), drawn, one.colour, glyph, joined=not points))
        flags = [Flag(m.x, MARK_GLYPHS.get(m.kind, "▴"), MARK_STYLES.get(m.kind, "cursor")) for m in self._marks]
        levels = [(level.y, level.colour) for level in self._levels]
        return Scene(curves, low, high, self.log_axis, self.x_unit, flags, levels, self.cursor)

    def _line_glyph(self, index: int) -> str:
        return GLYPHS[index % len(GLYPHS)] if self.app.no_color else ""

    def _legend(self, width: int) -> Strip:
        """Names and values: the newest, or those at the cursor."""
        texts: list[tuple[str, str]] = []
        if self.cursor is not None:
            texts.append((f"{self.x_unit} {x_writer(self.x_unit)(self.cursor)}  ", "cursor"))
        lines = 0
        for one in self._series:
            sign = "●" if one.kind == "points" else self._line_glyph(lines) or "━"
            lines += one.kind != "points"
            texts += [(sign, one.colour), (f" {one.name} {self._value_text(one)}  ", "cursor")]
        for level in self._levels:
            texts += [("╌", level.colour), (f" {level.label} {number(level.y)}  ", AXIS)]
        if self.cursor is not None:
            texts.append((self._mark_text(width), "accent"))
        return self._strip(texts).adjust_cell_length(width, self.rich_style)

    def _value_text(self, one: Series) -> str:
        index = self._index(one)
        if index is None:
            return ""
        raw, drawn = float(one.y[index]), float(self.smoothed(one)[index])
        return number(raw) if raw == drawn or raw != raw else f"{number(drawn)} ({number(raw)})"

    def _index(self, one: Series) -> int | None:
        """The point a read-out speaks of: the one nearest to the cursor, for points the last before it."""
        if not len(one.x):
            return None
        if self.cursor is None:
            return len(one.x) - 1
        index = int(np.searchsorted(one.x, self.cursor, side="right")) - 1
        if one.kind == "points" or index + 1 >= len(one.x):
            return index if index >= 0 else None
        nearer_after = index < 0 or one.x[index + 1] - self.cursor < self.cursor - one.x[index]
        return index + nearer_after

    def _mark_text(self, width: int) -> str:
        """What is marked in the cursor's column."""
        low, high = self.view or self.extent()
        reach = (high - low) / max(1, self._frame.columns or width) * 0.75
        near = [mark for mark in self._marks if self.cursor is not None and abs(mark.x - self.cursor) <= reach]
        return "  ".join(f"{MARK_GLYPHS.get(mark.kind, '▴')} {one_line(mark.label)}" for mark in near[:4])

    def _painted(self, rows: Sequence[Row]) -> list[Strip]:
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
        if self.size.height < 6 and self._series and len(self._series[0].x):
            notes.insert(0, self._value_text(self._series[0]))
        self.border_subtitle = Content(" · ".join(notes))

    # What the person does

    def watch_log_axis(self) -> None:
        self.redraw()

    def watch_smoothing(self) -> None:
        self._smoothed.clear()
        self.redraw()

    def watch_view(self) -> None:
        self.redraw()

    def watch_cursor(self) -> None:
        self.redraw()

    def action_log(self) -> None:
        """Logarithmic y axis on or off."""
        self.log_axis = not self.log_axis

    def action_smoothing(self, by: int) -> None:
        """More or less smoothing."""
        place = min(range(len(SMOOTHINGS)), key=lambda index: abs(SMOOTHINGS[index] - self.smoothing))
        self.smoothing = SMOOTHINGS[min(max(place + by, 0), len(SMOOTHINGS) - 1)]

    def action_maximise(self) -> None:
        """Ask the screen for all of its room, or to give it back."""
        self.post_message(self.MaximiseRequested(self))

    def action_reset(self) -> None:
        """All of the range again."""
        self._look_at(None)

    def action_follow(self) -> None:
        """Keep the zoom, and move with the newest data."""
        if self.view is not None:
            self.action_pan(1e9)

    def action_zoom(self, factor: float, about: float | None = None) -> None:
        """Show `factor` times as much, around `about`, the cursor, or the middle."""
        extent = self.extent()
        low, high = self.view or extent
        centre = about if about is not None else self.cursor if self.cursor is not None else (low + high) / 2
        centre = min(max(centre, low), high)
        least = max((extent[1] - extent[0]) * 1e-6, 1e-9)
        span = max((high - low) * factor, least)
        if span >= extent[1] - extent[0]:
            self._look_at(None)
            return
        start = centre - (centre - low) / max(high - low, least) * span
        start = min(max(start, extent[0]), extent[1] - span)
        self._look_at((start, start + span))

    def action_pan(self, share: float) -> None:
        """Move by a share of the width; at the right end the view follows the newest data."""
        if self.view is None:
            return
        first, newest = self.extent()
        span = self.view[1] - self.view[0]
        start = min(max(self.view[0] + share * span, first), newest - span)
        self._look_at((start, start + span), following=start + span >= newest)

    def action_cursor(self, columns: int) -> None:
        """Move the cursor by columns, onto the nearest point of the first curve."""
        low, high = self.view or self.extent()
        step = (high - low) / max(1, self._frame.columns)
        if self.cursor is None:
            self._read(high if columns < 0 else low)
            return
        target = min(max(self.cursor + columns * step, low), high)
        self._read(target, beyond=self.cursor, forward=columns > 0)

    def action_clear_cursor(self) -> None:
        """Take the cursor away."""
        self.cursor = None
        self.post_message(self.CursorMoved(self, None))

    def _look_at(self, view: tuple[float, float] | None, following: bool = False) -> None:
        self._following = following and view is not None
        self.view = view
        self._write_subtitle()
        self.post_message(self.ViewChanged(self, view))

    def _read(self, x: float, beyond: float | None = None, forward: bool = True) -> None:
        """Put the cursor on the point nearest to x, and at least one point beyond where it was."""
        points = next((one.x for one in self._series if len(one.x)), None)
        if points is None:
            return
        index = int(np.clip(np.searchsorted(points, x), 0, len(points) - 1))
        if index and x - points[index - 1] < points[index] - x:
            index -= 1
        if beyond is not None and forward and points[index] <= beyond:
            index = min(int(np.searchsorted(points, beyond, side="right")), len(points) - 1)
        elif beyond is not None and not forward and points[index] >= beyond:
            index = max(int(np.searchsorted(points, beyond, side="left")) - 1, 0)
        self.cursor = float(points[index])
        self.post_message(self.CursorMoved(self, self.cursor))

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
        """Zoom about the pointer, once the chart has the focus: until then the wheel scrolls what it lies in."""
        if self.has_focus:
            event.stop()
            self.action_zoom(factor, self._x_under(event))
