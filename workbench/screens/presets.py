"""Choosing what to train."""

from __future__ import annotations

from workbench.screens.base import WorkbenchScreen


class PresetsScreen(WorkbenchScreen):
    """The presets, and what each would mean on this machine."""
