"""Themes: texts can be read, and curves told apart, also by people who see colors otherwise.

Contrast is that of WCAG 2.2: 4.5 for text (7 where much contrast is promised), 3 for curves and the frame of what has
the focus. How colors look to people with a colour-vision deficiency is computed with the matrices of Machado, Oliveira
and Fernandes (2009) for severity 1; differences are CIE 1976 distances in L*a*b*.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from textual.color import Color
from textual.theme import Theme

from tests.workbench.runs_for_tests import make_run
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.charts.chart import COLORS
from workbench.charts.export import strips_of
from workbench.ui.lists import DETAIL
from workbench.ui.themes import DEFAULT, THEMES, named_colors

OWN = [theme for theme in THEMES if not theme.ansi]
TEXTS = ("foreground", "foreground-muted", "text-muted", "text-error", "text-warning", "text-success", "text-accent")
GROUNDS = ("background", "surface", "panel")
DEFICIENCIES = {
    "protanopia": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
    "deuteranopia": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)],
    "tritanopia": [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)],
}
XYZ = np.array(
    [(0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)]
)


def linear(color: Color) -> NDArray[np.float64]:
    """Red, green and blue as amounts of light."""
    values = np.array([color.r, color.g, color.b]) / 255
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio of WCAG."""
    darker, lighter = sorted(float(linear(color) @ (0.2126, 0.7152, 0.0722)) for color in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """L*a*b* of linear RGB under D65."""
    x, y, z = np.cbrt(np.clip(XYZ @ light / XYZ.sum(axis=1), 1e-4, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colors_of(theme: Theme) -> dict[str, str]:
    return theme.to_color_system().generate() | theme.variables


def on(ground: Color, text: str) -> Color:
    """The color of a text as it is painted on a ground: `auto` is black or white, whichever is easier to read."""
    if text.startswith("auto"):
        return ground + ground.get_contrast_text(float(text.split()[1].rstrip("%")) / 100)
    return ground + Color.parse(text)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast(Color.parse("#000000"), Color.parse("#ffffff")) == pytest.approx(21.0)
    assert contrast(Color.parse("#777777"), Color.parse("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", OWN, ids=lambda theme: theme.name)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_can_be_read(theme: Theme, text: str, ground: str) -> None:
    colors = colors_of(theme)
    below = Color.parse(colors[ground])
    least = 7.0 if theme.name == "high-contrast" else 4.5
    assert contrast(on(below, colors[text]), below) >= least


@pytest.mark.parametrize("theme", OWN, ids=lambda theme: theme.name)
@pytest.mark.parametrize("number", range(1, 7), ids=["red", "green", "yellow", "blue", "magenta", "cyan"])
def test_named_colors_can_be_read(theme: Theme, number: int) -> None:
    """How a run stands, and warnings, are in these."""
    text = Color(*named_colors(theme.name).ansi_colors[number])
    least = 7.0 if theme.name == "high-contrast" else 4.5
    assert min(contrast(text, Color.parse(colors_of(theme)[ground])) for ground in GROUNDS) >= least


async def test_a_theme_says_what_red_is(tmp_path: Path) -> None:
    make_run(tmp_path, "bad-1", steps=1, end="failed")
    make_run(tmp_path, "good-1", steps=1)
    app = WorkbenchApp(tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        app.theme = "workbench-light"
        await app.action_show("runs")
        await until(pilot, lambda: "failed" in shown(app.screen))
        await pilot.pause()
        strips = strips_of(app.screen)
        (style,) = {segment.style for strip in strips for segment in strip if "failed" in segment.text}
        assert style is not None and style.color is not None
        assert style.color.triplet == named_colors("workbench-light").ansi_colors[1]


@pytest.mark.parametrize("theme", OWN, ids=lambda theme: theme.name)
def test_the_marked_line_can_be_read(theme: Theme) -> None:
    colors = colors_of(theme)
    below = Color.parse(colors["block-cursor-background"])
    assert contrast(on(below, colors["block-cursor-foreground"]), below) >= 4.5
    assert contrast(on(below, DETAIL), below) >= 4.5


@pytest.mark.parametrize("theme", OWN, ids=lambda theme: theme.name)
def test_curves_stand_out_and_differ(theme: Theme) -> None:
    colors = colors_of(theme)
    curves = {name: Color.parse(colors[name]) for name in COLORS}
    for name, ground in itertools.product(COLORS, ("background", "surface")):
        assert contrast(curves[name], Color.parse(colors[ground])) >= 3, (name, ground)
    for one, other in itertools.combinations(COLORS, 2):
        assert np.linalg.norm(lab(linear(curves[one])) - lab(linear(curves[other]))) > 20, (one, other)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_color_blind_safe_curves_differ_for_everybody(deficiency: str) -> None:
    theme = next(theme for theme in OWN if theme.name == "colour-blind-safe")
    colors, matrix = colors_of(theme), np.array(DEFICIENCIES[deficiency])
    seen = {name: lab(np.clip(matrix @ linear(Color.parse(colors[name])), 0, 1)) for name in COLORS}
    for one, other in itertools.combinations(COLORS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 12, (one, other)


def test_there_is_a_theme_for_everybody() -> None:
    names = [theme.name for theme in THEMES]
    assert names[:2] == ["terminal-dark", "terminal-light"] and all(theme.ansi for theme in THEMES[:2])
    assert {DEFAULT, "workbench-light", "high-contrast", "colour-blind-safe"} == set(names[2:])
