"""Draw curves on a grid of character cells: plotext draws the lines, this module adds axes, levels and marks.

`draw` takes a `Scene` and returns rows of cells. A cell is one character and the name of its style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from workbench.charts.axes import Ticks, x_ticks, y_ticks
from workbench.charts.downsample import Floats, clip, segments, thin, visible

AXIS, CURSOR = "axis", "cursor"


class Cell(NamedTuple):
    """One character and the name of its style."""

    glyph: str
    style: str


BLANK = Cell(" ", "")
DOT_ROWS = (0xC0, 0x24, 0x12, 0x09)  # the two dots of each row of a braille character, from the bottom
Row = list[Cell]


@dataclass(frozen=True)
class Curve:
    """A curve to draw. `glyph`: its character, "" for braille dots; `joined`: whether points are joined by lines;
    `thinned`: points are pairs, the least and the greatest value of a column."""

    x: Floats
    y: Floats
    style: str
    glyph: str = ""
    joined: bool = True
    thinned: bool = False


@dataclass(frozen=True)
class Flag:
    """A mark on the x axis."""

    x: float
    glyph: str
    style: str


@dataclass(frozen=True)
class Scene:
    """What to draw: `low` and `high` are the visible range of x, `levels` horizontal lines as (y, style)."""

    curves: Sequence[Curve]
    low: float
    high: float
    log: bool = False
    unit: str = "step"
    flags: Sequence[Flag] = ()
    levels: Sequence[tuple[float, str]] = ()
    cursor: float | None = None


@dataclass(frozen=True)
class Frame:
    """The drawn rows, and the position of the canvas in them, to convert mouse positions."""

    rows: list[Row]
    left: int
    columns: int


def draw(scene: Scene, width: int, height: int) -> Frame:
    """Draw the scene in `height` rows of `width` cells; any size works."""
    if width < 1 or height < 1:
        return Frame([[BLANK] * max(0, width) for _ in range(max(0, height))], 0, 0)
    framed = width >= 16 and height >= 4
    canvas_height = height - 2 if framed else height
    curves = _prepare_curves(scene, width)
    low, high = _limits(curves, scene)
    labels = _y_labels(low, high, canvas_height, scene.log) if framed else []
    left = max((len(label) for _, label in labels), default=0) + 1 if framed else 0
    columns = width - left
    canvas = _canvas(scene, curves, (low, high), columns, canvas_height)
    _draw_levels(canvas, scene, low, high)
    _draw_cursor(canvas, scene)
    if not framed:
        return Frame(canvas, 0, columns)
    rows = _add_y_axis(canvas, labels, low, high, left)
    rows += _x_axis(scene, left, columns)
    return Frame(rows, left, columns)


def centered_text(text: str, width: int, height: int) -> list[Row]:
    """Rows with a text in the middle, for a chart without data."""
    rows: list[Row] = [[BLANK] * width for _ in range(height)]
    text = text[:width]
    if height and text:
        start = (width - len(text)) // 2
        rows[height // 2][start : start + len(text)] = [Cell(glyph, "empty") for glyph in text]
    return rows


def _y_labels(low: float, high: float, rows: int, log: bool) -> Ticks:
    """A label about every third row; closer if there would be only one."""
    found: Ticks = []
    for most in (max(2, rows // 3), max(2, rows // 2), rows):
        found = y_ticks(low, high, most, log)
        if len(found) > 1:
            break
    return found


def column_of(x: float, low: float, high: float, columns: int) -> int:
    """The column in which plotext draws x: it spreads [low, high] over the outermost braille dots."""
    if high <= low or columns < 1:
        return 0
    return math.floor(round(0.5 + (2 * columns - 1) * (x - low) / (high - low), 8)) // 2


def x_at(column: int, low: float, high: float, columns: int) -> float:
    """The x in the middle of a cell."""
    share = (2 * column + 0.5) / max(1, 2 * columns - 1)
    return low + min(1.0, max(0.0, share)) * (high - low)


def _prepare_curves(scene: Scene, columns: int) -> list[Curve]:
    """The curves, clipped to the view and thinned; on a log axis as powers of ten, without non-positive values."""
    ready = []
    for curve in scene.curves:
        part = visible(curve.x, scene.low, scene.high)
        x, y = curve.x[part], curve.y[part]
        if scene.log:
            y = np.where(y > 0, y, np.nan)
        x, y = thin(x, y, scene.low, scene.high, columns)
        if scene.log:
            y = np.log10(y)
        for piece_x, piece_y in segments(x, y):
            piece_x, piece_y = clip(piece_x, piece_y, scene.low, scene.high, joined=curve.joined)
            if len(piece_x):
                thinned = part.stop - part.start > columns
                ready.append(replace(curve, x=piece_x, y=piece_y, thinned=thinned))
    return ready


def _limits(curves: Sequence[Curve], scene: Scene) -> tuple[float, float]:
    """The range of y: all visible values, levels that are near, and a small margin."""
    if not curves:
        return (0.0, 1.0)
    low = min(float(curve.y.min()) for curve in curves)
    high = max(float(curve.y.max()) for curve in curves)
    span = high - low
    for level, _ in scene.levels:
        place = _y_position(level, scene.log)
        if place is not None and low - span <= place <= high + span:
            low, high = min(low, place), max(high, place)
    if not high > low:
        margin = 0.1 if scene.log else abs(high) * 0.05 or 0.5
        return low - margin, high + margin
    margin = (high - low) * 0.03
    return low - margin, high + margin


def _y_position(value: float, log: bool) -> float | None:
    """Where a value is drawn; None for one that is not: plotext 5.3.2 raises at infinity, and at 0 or less if `log`."""
    if not math.isfinite(value) or (log and value <= 0):
        return None
    return math.log10(value) if log else value


def _canvas(scene: Scene, curves: Sequence[Curve], limits: tuple[float, float], columns: int, rows: int) -> list[Row]:
    """The curves alone: solid bands first, then the lines of plotext over them."""
    canvas: list[Row] = [[BLANK] * max(0, columns) for _ in range(max(0, rows))]
    if columns < 1 or rows < 1:
        return canvas
    bands = [curve for curve in curves if _is_band(curve, limits, rows)]
    for curve in bands:
        _paint_band(canvas, curve, scene, limits)
    lines = [curve for curve in curves if not any(curve is band for band in bands)]
    if lines:
        for row, drawn in zip(canvas, _plot_curves(scene, lines, limits, columns, rows), strict=True):
            for column, cell in enumerate(drawn):
                if cell is not BLANK:
                    row[column] = cell
    return canvas


def _is_band(curve: Curve, limits: tuple[float, float], rows: int) -> bool:
    """Whether a thinned curve jumps so much that its strokes fill an area. plotext takes up to a third of a second for
    one, painting it directly two milliseconds."""
    if not curve.thinned or curve.glyph:
        return False
    dots_per_stroke = float(np.abs(curve.y[1::2] - curve.y[0::2]).mean()) / (limits[1] - limits[0]) * 4 * rows
    return dots_per_stroke > 6


def _paint_band(canvas: list[Row], curve: Curve, scene: Scene, limits: tuple[float, float]) -> None:
    rows, columns = len(canvas), len(canvas[0])
    scaled = np.floor(0.5 + (4 * rows - 1) * (curve.y - limits[0]) / (limits[1] - limits[0])).astype(int)
    lows, highs = np.minimum(scaled[0::2], scaled[1::2]), np.maximum(scaled[0::2], scaled[1::2])
    for x, low, high in zip(curve.x[0::2].tolist(), lows.tolist(), highs.tolist(), strict=True):
        column = column_of(x, scene.low, scene.high, columns)
        for cell in range(low // 4, high // 4 + 1):
            first, last = max(low - 4 * cell, 0), min(high - 4 * cell, 3)
            canvas[rows - 1 - cell][column] = Cell(chr(0x2800 + sum(DOT_ROWS[first : last + 1])), curve.style)


def _plot_curves(
    scene: Scene, curves: Sequence[Curve], limits: tuple[float, float], columns: int, rows: int
) -> list[Row]:
    """The curves as drawn by plotext. Its color numbers stand for style names."""
    from textual_plotext import Plot  # takes a third of a second to import

    styles = sorted({curve.style for curve in curves})
    plot: Any = Plot()
    plot.xaxes(False, False)
    plot.yaxes(False, False)
    plot.xticks([])
    plot.yticks([])
    plot.xlim(scene.low, scene.high if scene.high > scene.low else scene.low + 1)
    plot.ylim(*limits)
    for curve in curves:
        paint = plot.plot if curve.joined and len(curve.x) > 1 else plot.scatter
        paint(curve.x.tolist(), curve.y.tolist(), marker=curve.glyph or "braille", color=styles.index(curve.style))
    plot.monitor.set_size([columns, rows])
    plot.monitor.build_plot()
    matrix = plot.monitor.matrix
    names = dict(enumerate(styles))
    return [
        [
            BLANK if glyph == " " else Cell(glyph, names.get(color, AXIS))
            for glyph, color in zip(glyphs, colors, strict=True)
        ]
        for glyphs, colors in zip(reversed(matrix.marker), reversed(matrix.fullground), strict=True)
    ]


def _row_of(value: float, low: float, high: float, rows: int) -> int:
    """The row, counted from the top, in which plotext draws y."""
    return rows - 1 - math.floor(round(0.5 + (4 * rows - 1) * (value - low) / (high - low), 8)) // 4


def _draw_levels(canvas: list[Row], scene: Scene, low: float, high: float) -> None:
    for level, style in scene.levels:
        place = _y_position(level, scene.log)
        if place is None or not low <= place <= high or not canvas:
            continue
        row = canvas[_row_of(place, low, high, len(canvas))]
        for column, cell in enumerate(row):
            if _can_overdraw(cell):
                row[column] = Cell("╌", style)


def _draw_cursor(canvas: list[Row], scene: Scene) -> None:
    if scene.cursor is None or not canvas or not scene.low <= scene.cursor <= scene.high:
        return
    column = column_of(scene.cursor, scene.low, scene.high, len(canvas[0]))
    for row in canvas:
        if _can_overdraw(row[column]) or row[column].glyph == "╌":
            row[column] = Cell("│", CURSOR)


def _can_overdraw(cell: Cell) -> bool:
    """Whether a level or the cursor may be drawn here: on blank cells, and on raw values under a smoothed curve."""
    return cell is BLANK or cell.style.endswith("-dim")


def _add_y_axis(canvas: list[Row], labels: list[tuple[float, str]], low: float, high: float, left: int) -> list[Row]:
    at = {_row_of(place, low, high, len(canvas)): label for place, label in labels if low <= place <= high}
    rows = []
    for index, row in enumerate(canvas):
        label = at.get(index, "")
        margin = label.rjust(left - 1) + ("┤" if label else "│")
        rows.append([Cell(glyph, AXIS) for glyph in margin] + row)
    return rows


def _x_axis(scene: Scene, left: int, columns: int) -> list[Row]:
    """The axis line with marks, and the row of labels."""
    line = [BLANK] * (left - 1) + [Cell("└", AXIS)] + [Cell("─", AXIS)] * columns
    labels: Row = [BLANK] * (left + columns)
    free_from = 0
    for place, label in x_ticks(scene.low, scene.high, max(2, columns // 9), scene.unit):
        if not scene.low <= place <= scene.high:
            continue
        column = left + column_of(place, scene.low, scene.high, columns)
        start = min(max(0, column - len(label) // 2), len(labels) - len(label))
        if start < free_from:
            continue
        line[column] = Cell("┬", AXIS)
        labels[start : start + len(label)] = [Cell(glyph, AXIS) for glyph in label]
        free_from = start + len(label) + 1
    for flag in scene.flags:
        if scene.low <= flag.x <= scene.high:
            line[left + column_of(flag.x, scene.low, scene.high, columns)] = Cell(flag.glyph, flag.style)
    return [line, labels]
