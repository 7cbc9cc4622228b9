"""The color themes: the terminal's own colors first, then four of ours.

`colour-blind-safe` uses the eight colors of Okabe and Ito (2008), which people with any of the common color-vision
deficiencies can tell apart.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from rich.terminal_theme import TerminalTheme
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

DEFAULT = "workbench-dark"
FOR_SIXTEEN_COLORS = "terminal-dark"

THEMES = (
    replace(BUILTIN_THEMES["ansi-dark"], name="terminal-dark"),  # only the sixteen colors the terminal defines
    replace(BUILTIN_THEMES["ansi-light"], name="terminal-light"),
    Theme(
        name="workbench-dark",
        primary="#7aa2f7",
        secondary="#7dcfff",
        accent="#e0af68",
        success="#9ece6a",
        warning="#ff8f40",
        error="#f7768e",
        foreground="#d5d9e6",
        background="#15161e",
        surface="#1b1d28",
        panel="#262936",
        dark=True,
    ),
    Theme(
        name="workbench-light",
        primary="#2559b8",
        secondary="#0e7490",
        accent="#9a5b00",
        success="#2f7d32",
        warning="#c2500a",
        error="#a3123f",
        foreground="#1d2330",
        background="#fbfbf9",
        surface="#f1f1ee",
        panel="#e3e4e0",
        dark=False,
        variables={
            "panel-lighten-2": "#a9adb6",  # frames: lighter than light could not be seen
            "foreground-muted": "#565b66",
        },
    ),
    Theme(
        name="high-contrast",
        primary="#00d7ff",
        secondary="#ffffff",
        accent="#ffff00",
        success="#00ff5f",
        warning="#ff9f1a",
        error="#ff5f5f",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#262626",
        dark=True,
        text_alpha=1.0,
        variables={"panel-lighten-2": "#9a9a9a", "foreground-muted": "#c8c8c8", "text-muted": "auto 75%"},
    ),
    Theme(
        name="colour-blind-safe",
        primary="#56b4e9",
        secondary="#0072b2",
        accent="#f0e442",
        success="#009e73",
        warning="#e69f00",
        error="#d55e00",
        foreground="#e8e8e8",
        background="#141414",
        surface="#1c1c1c",
        panel="#2a2a2a",
        dark=True,
    ),
)

NAMED = ("background", "text-error", "text-success", "text-warning", "text-primary", "text-secondary", "text-accent")
"""The colors of a theme that stand for black, red, green, yellow, blue, magenta and cyan."""


@cache
def named_colors(theme_name: str) -> TerminalTheme:
    """What the sixteen color names mean in texts shown under one of `THEMES`: colors that can be read on it."""
    theme = next(theme for theme in THEMES if theme.name == theme_name)
    colors = theme.to_color_system().generate() | theme.variables
    background, foreground, *named = (Color.parse(colors[name]).rgb for name in ("background", "foreground", *NAMED))
    return TerminalTheme(background, foreground, [*named, foreground])
