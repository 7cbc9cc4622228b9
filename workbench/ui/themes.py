"""The color themes: two of the terminal's own colors, then four of this program.

`colour-blind-safe` uses the eight colors of Okabe and Ito (2008), which people with any of the common color-vision
deficiencies can tell apart.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from rich.terminal_theme import TerminalTheme
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

DEFAULT = "workbench-dark"
FOR_SIXTEEN_COLORS = "terminal-dark"

ROLES = ("primary", "secondary", "accent", "success", "warning", "error")
GROUNDS = ("foreground", "background", "surface", "panel")


def make_theme(name: str, roles: str, grounds: str, **more: Any) -> Theme:
    """A theme from its colors: those of `ROLES`, and those of `GROUNDS`."""
    colors: dict[str, Any] = dict(zip((*ROLES, *GROUNDS), f"{roles} {grounds}".split(), strict=True))
    return Theme(name=name, **colors, **more)


THEMES = (
    replace(BUILTIN_THEMES["ansi-dark"], name="terminal-dark"),  # the sixteen colors of the terminal
    replace(BUILTIN_THEMES["ansi-light"], name="terminal-light"),
    make_theme(
        "workbench-dark",
        "#7aa2f7 #7dcfff #e0af68 #9ece6a #ff8f40 #f7768e",
        "#d5d9e6 #15161e #1b1d28 #262936",
    ),
    make_theme(
        "workbench-light",
        "#2559b8 #0e7490 #9a5b00 #2f7d32 #c2500a #a3123f",
        "#1d2330 #fbfbf9 #f1f1ee #e3e4e0",
        dark=False,
        variables={
            "panel-lighten-2": "#a9adb6",  # frames, which would be too light
            "foreground-muted": "#565b66",
        },
    ),
    make_theme(
        "high-contrast",
        "#00d7ff #ffffff #ffff00 #00ff5f #ff9f1a #ff5f5f",
        "#ffffff #000000 #000000 #262626",
        text_alpha=1.0,
        variables={"panel-lighten-2": "#9a9a9a", "foreground-muted": "#c8c8c8", "text-muted": "auto 75%"},
    ),
    make_theme(
        "colour-blind-safe",
        "#56b4e9 #0072b2 #f0e442 #009e73 #e69f00 #d55e00",
        "#e8e8e8 #141414 #1c1c1c #2a2a2a",
    ),
)

NAMED = ("background", "text-error", "text-success", "text-warning", "text-primary", "text-secondary", "text-accent")
"""The theme colors for black, red, green, yellow, blue, magenta and cyan."""


@cache
def named_colors(theme_name: str) -> TerminalTheme:
    """The sixteen named colors under one of `THEMES`, all legible on its background."""
    theme = next(theme for theme in THEMES if theme.name == theme_name)
    colors = theme.to_color_system().generate() | theme.variables
    background, foreground, *named = (Color.parse(colors[name]).rgb for name in ("background", "foreground", *NAMED))
    return TerminalTheme(background, foreground, [*named, foreground])
