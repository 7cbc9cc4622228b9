"""The data of a chart, without a screen: curves, marks, levels, and their legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from workbench.charts.axes import x_writer
from workbench.charts.downsample import Floats, smooth, tidy
from workbench.charts.drawing import AXIS, Curve, Flag, Scene
from workbench.charts.legend import GAP, Entry
from workbench.formatting import format_number
from workbench.text import one_line

COLORS = ("primary", "accent", "success", "secondary", "error", "warning")
"""The colors of series, by their names in the theme, in the order in which an overlay uses them."""

LINE_GLYPHS = ("", "+", "x", "o", "*", "#")  # distinguish lines with NO_COLOR
MARK_GLYPHS = {"save": "▪", "best": "★", "setting": "◆", "skip": "✗", "rollback": "↶"}
MARK_STYLES = {"best": "success", "setting": "accent", "skip": "error", "rollback": "error"}


@dataclass(frozen=True)
class Series:
    """One curve. `x` and `y` have shape (N,); NaN and infinite values of y are gaps. `smooth`: whether smoothing
    applies to it, `raw` whether its values are drawn beneath then. `kind` "points" draws single points, as for
    evaluations."""

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    color: str = "primary"
    kind: Literal["line", "points"] = "line"
    smooth: bool = True
    raw: bool = True


@dataclass(frozen=True)
class Mark:
    """Something that happened at x: a save, an evaluation, a changed setting, a skipped step."""

    x: float
    label: str
    kind: str = "note"


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as the norm at which gradients are clipped."""

    y: float
    label: str
    color: str = "warning"


class ChartData:
    """The curves of one chart. Smoothing is computed once for all redraws."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.marks: tuple[Mark, ...] = ()
        self.levels: tuple[Level, ...] = ()
        self._smoothed: dict[int, Floats] = {}
        self._decay = 0.0

    def replace(self, series: Sequence[Series], marks: Sequence[Mark], levels: Sequence[Level]) -> None:
        self.series = [
            replace(one, name=one_line(one.name), x=x, y=y) for one in series for x, y in [tidy(one.x, one.y)]
        ]
        self.marks, self.levels = tuple(marks), tuple(levels)
        self._smoothed.clear()

    def copy(self) -> ChartData:
        """A copy for another thread."""
        copy = ChartData()
        copy.series, copy.marks, copy.levels = list(self.series), self.marks, self.levels
        return copy

    @property
    def is_empty(self) -> bool:
        return not any(len(one.x) for one in self.series)

    def extent(self) -> tuple[float, float]:
        """The least and the greatest x there is; (0, 1) while there is none."""
        filled = [one.x for one in self.series if len(one.x)]
        if not filled:
            return 0.0, 1.0
        return min(float(x[0]) for x in filled), max(float(x[-1]) for x in filled)

    def smoothed(self, index: int, decay: float) -> Floats:
        """The values of a series as drawn: smoothed where smoothing is on and applies to it."""
        one = self.series[index]
        if not (decay and one.smooth and one.kind == "line"):
            return cast(Floats, one.y)
        if decay != self._decay:
            self._smoothed.clear()
            self._decay = decay
        if index not in self._smoothed:
            self._smoothed[index] = smooth(cast(Floats, one.y), decay)
        return self._smoothed[index]

    def glyphs(self, monochrome: bool) -> list[str]:
        """The glyph of each series; "" is a line of braille dots. Without color, lines differ by their glyph."""
        found: list[str] = []
        lines = 0
        for one in self.series:
            is_line = one.kind == "line"
            found.append((LINE_GLYPHS[lines % len(LINE_GLYPHS)] if monochrome else "") if is_line else "●")
            lines += is_line
        return found

    def scene(self, view: tuple[float, float], decay: float, glyphs: Sequence[str], **more: Any) -> Scene:
        """The scene to draw; `more` are the other fields of `Scene`."""
        low, high = view if view[1] > view[0] else (view[0] - 0.5, view[0] + 0.5)
        raw: list[Curve] = []
        curves: list[Curve] = []
        for index, (one, glyph) in enumerate(zip(self.series, glyphs, strict=True)):
            x, y, drawn = cast(Floats, one.x), cast(Floats, one.y), self.smoothed(index, decay)
            if drawn is not y and one.raw:
                raw.append(Curve(x, y, f"{one.color}-dim"))
            curves.append(Curve(x, drawn, one.color, glyph, joined=one.kind == "line"))
        flags = [Flag(m.x, MARK_GLYPHS.get(m.kind, "▴"), MARK_STYLES.get(m.kind, "cursor")) for m in self.marks]
        levels = [(level.y, level.color) for level in self.levels]
        return Scene(raw + curves, low, high, flags=flags, levels=levels, **more)

    def value_text(self, index: int, cursor: float | None, decay: float) -> str:
        """The value of a series in the legend: the newest, or at the cursor; then the raw one in brackets, if drawn."""
        one, place = self.series[index], self._place(self.series[index], cursor)
        if place is None:
            return ""
        raw, drawn = float(one.y[place]), float(self.smoothed(index, decay)[place])
        return (
            f"{format_number(drawn)} ({format_number(raw)})"
            if one.raw and raw != drawn and raw == raw
            else format_number(drawn)
        )

    def _place(self, one: Series, cursor: float | None) -> int | None:
        """The index of the value in the legend: nearest to the cursor; of single points the last before it."""
        if not len(one.x):
            return None
        if cursor is None:
            return len(one.x) - 1
        index = int(np.searchsorted(one.x, cursor, side="right")) - 1
        if one.kind == "points" or index + 1 >= len(one.x):
            return index if index >= 0 else None
        nearer_after = index < 0 or one.x[index + 1] - cursor < cursor - one.x[index]
        return index + nearer_after

    def legend(self, glyphs: Sequence[str], cursor: float | None, decay: float, unit: str, reach: float) -> list[Entry]:
        """Names and values: the newest, or those at the cursor, with what is marked within `reach`."""
        entries: list[Entry] = []
        if cursor is not None:
            entries.append(Entry(("", ""), unit, "cursor", x_writer(unit)(cursor)))
        for index, (one, glyph) in enumerate(zip(self.series, glyphs, strict=True)):
            value, sign = self.value_text(index, cursor, decay), (glyph or "━", one.color)
            if index > 0 and one.name.startswith(f"{self.series[index - 1].name} "):
                entries[-1] = replace(entries[-1], more=(sign, (f" {value}{GAP}", "cursor")))
            else:
                entries.append(Entry(sign, one.name, "cursor", value, can_drop=True))
        for level in self.levels:
            entries.append(Entry(("╌", level.color), one_line(level.label), AXIS, format_number(level.y)))
        if cursor is not None:
            near = [mark for mark in self.marks if abs(mark.x - cursor) <= reach][:4]
            entries += [Entry((MARK_GLYPHS.get(m.kind, "▴"), "accent"), one_line(m.label), "accent") for m in near]
        return entries

    def nearest(self, x: float, beyond: float | None = None, forward: bool = True) -> float | None:
        """The x of the first curve's point that is nearest, and past `beyond` in the direction given."""
        points = next((one.x for one in self.series if len(one.x)), None)
        if points is None:
            return None
        index = int(np.clip(np.searchsorted(points, x), 0, len(points) - 1))
        if index and x - points[index - 1] < points[index] - x:
            index -= 1
        if beyond is not None and forward and points[index] <= beyond:
            index = min(int(np.searchsorted(points, beyond, side="right")), len(points) - 1)
        elif beyond is not None and not forward and points[index] >= beyond:
            index = max(int(np.searchsorted(points, beyond, side="left")) - 1, 0)
        return float(points[index])
