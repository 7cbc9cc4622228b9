"""Export screens and charts as SVG and CSV files."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.segment import Segment, Segments
from textual._context import visible_screen_stack
from textual.screen import Screen
from textual.strip import Strip

from llm.files import write_atomic
from workbench.charts.chart_data import ChartData

FOLDER = "exports"
SVG = """<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's SVG of a terminal, without fonts from the web."""


def free_path(home: Path, stem: str, suffix: str) -> Path:
    """An unused file name in the folder of exports."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "chart"
    names = (f"{plain}{f'-{number}' if number > 1 else ''}{suffix}" for number in itertools.count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def strips_of(screen: Screen[Any]) -> list[Strip]:
    """The lines of a screen. Sets the screens behind a window; without them Textual would draw, and cache, an empty
    background."""
    stack = screen.app.screen_stack
    visible_screen_stack.set(stack[: stack.index(screen)] if screen in stack else [])
    return screen._compositor.render_strips()


def picture_of_strips(strips: Iterable[Strip], title: str) -> str:
    """Lines of a screen or widget as SVG."""
    lines = list(strips)
    console = Console(
        width=max((strip.cell_length for strip in lines), default=1),
        height=len(lines),
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=True,
        legacy_windows=False,
        safe_box=False,
    )
    console.print(Segments([segment for strip in lines for segment in (*strip, Segment.line())]), end="")
    return console.export_svg(title=title, code_format=SVG)


def table(data: ChartData, x_unit: str, smoothing: float) -> str:
    """The curves of a chart as CSV: a row per x, a column per curve, and one more if it is smoothed."""
    columns: list[tuple[str, dict[float, float]]] = []
    for index, one in enumerate(data.series):
        x = one.x.tolist()
        columns.append((one.name, dict(zip(x, one.y.tolist(), strict=True))))
        smoothed = data.smoothed(index, smoothing)
        if smoothed is not one.y:
            columns.append((f"{one.name} (smoothing {smoothing:g})", dict(zip(x, smoothed.tolist(), strict=True))))
    every = [np.asarray(one.x, dtype=np.float64) for one in data.series if len(one.x)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([x_unit, *(name for name, _ in columns)])
    for place in np.unique(np.concatenate(every)).tolist() if every else ():
        values = [column.get(place) for _, column in columns]
        at = int(place) if place.is_integer() else place
        writer.writerow([at, *("" if value is None else repr(value) for value in values)])
    return text.getvalue()


def write_export(home: Path, stem: str, suffix: str, text: str) -> Path:
    """Write a new file in the folder of exports; returns its path."""
    path = free_path(home, stem, suffix)
    write_atomic(path, text.encode("utf-8", "replace"))
    return path
