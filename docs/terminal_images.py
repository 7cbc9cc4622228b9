"""Draw a grid of terminal cells as an image, with a font that every machine has after `pip install '.[docs]'`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from rich.cells import cell_len
from rich.color import Color, ColorType
from rich.terminal_theme import DIMMED_MONOKAI as PALETTE
from textual.strip import Strip

FOREGROUND, BACKGROUND = (214, 214, 214), (18, 18, 18)  # where a cell names no color of its own
RGB = tuple[int, int, int]
BRAILLE = 0x2800  # the first of the 256 patterns of 2 × 4 dots
BRAILLE_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))  # column and row of each bit


@dataclass(frozen=True)
class Cell:
    """One character of a terminal, or two columns of it where `width` is 2."""

    text: str
    foreground: RGB = FOREGROUND
    background: RGB = BACKGROUND
    bold: bool = False
    width: int = 1


@cache
def load_font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono as matplotlib ships it: it has the box-drawing and block characters."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"), size)


def draw_cells(rows: Sequence[Sequence[Cell]], size: int = 14) -> Image.Image:
    """An RGB image of `rows`, each character `size` pixels high."""
    font = load_font(False, size)
    width, height = round(font.getlength("M")), round(size * 1.3)
    columns = max((sum(cell.width for cell in row) for row in rows), default=1)
    image = Image.new("RGB", (columns * width, len(rows) * height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for y, row in enumerate(rows):
        x = 0
        for cell in row:
            if cell.background != BACKGROUND:
                draw.rectangle((x, y * height, x + cell.width * width - 1, (y + 1) * height - 1), fill=cell.background)
            if is_braille(cell.text):
                draw_braille(draw, ord(cell.text) - BRAILLE, (x, y * height, width, height), cell.foreground)
            elif cell.text.strip():
                draw.text((x, y * height + 1), cell.text, font=load_font(cell.bold, size), fill=cell.foreground)
            x += cell.width * width
    return image


def is_braille(text: str) -> bool:
    """Whether a cell holds a braille pattern, which the charts are drawn with and the font lacks."""
    return len(text) == 1 and BRAILLE <= ord(text) < BRAILLE + 256


def draw_braille(draw: ImageDraw.ImageDraw, dots: int, box: tuple[int, int, int, int], color: RGB) -> None:
    """Draw the dots of a braille pattern, a bit each, as blocks in `box` (x, y, width, height)."""
    left, top, width, height = box
    for bit, (column, row) in enumerate(BRAILLE_DOTS):
        if dots >> bit & 1:
            x, y = left + column * width // 2, top + row * height // 4
            draw.rectangle((x, y, x + max(1, width // 2 - 2), y + max(1, height // 4 - 2)), fill=color)


def cells_of_strips(strips: Iterable[Strip]) -> list[list[Cell]]:
    """The cells of a Textual screen or widget."""
    return [cells_of_strip(strip) for strip in strips]


def cells_of_strip(strip: Strip) -> list[Cell]:
    cells = []
    for text, style, _ in strip:
        foreground, background, bold = FOREGROUND, BACKGROUND, False
        if style is not None:
            foreground, background = rgb_of(style.color, FOREGROUND), rgb_of(style.bgcolor, BACKGROUND)
            bold = bool(style.bold)
            if style.dim:
                foreground = blend(foreground, background)
            if style.reverse:
                foreground, background = background, foreground
        cells += [Cell(letter, foreground, background, bold, cell_len(letter)) for letter in text if cell_len(letter)]
    return cells


def rgb_of(color: Color | None, default: RGB) -> RGB:
    """A Rich color as red, green and blue."""
    if color is None or color.type is ColorType.DEFAULT:
        return default
    triplet = color.get_truecolor(PALETTE)
    return triplet.red, triplet.green, triplet.blue


def blend(one: RGB, other: RGB) -> RGB:
    """The color halfway between two."""
    return (one[0] + other[0]) // 2, (one[1] + other[1]) // 2, (one[2] + other[2]) // 2
