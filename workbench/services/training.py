"""Starting, steering and stopping training, in this program's own thread or in a process of its own."""

from __future__ import annotations

from pathlib import Path


class TrainingService:
    """Knows which run is in training. Screens do not see where it trains."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.active: str | None = None
