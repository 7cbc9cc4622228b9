"""A CSV file: the one of `runs export --csv`, written again whenever a checkpoint holds new steps."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from llm.run import Run
from workbench.runs.export import save_csv
from workbench.trackers.metrics import Row


class CsvTracker:
    """Writes `out`/NAME.csv."""

    can_rewind: ClassVar[bool] = False

    def __init__(self, run: Run, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._run, self._path = run, out / f"{run.name}.csv"
        self._has_new = True

    @property
    def place(self) -> str:
        return str(self._path)

    def log(self, row: Row) -> None:
        self._has_new = True

    def rewind(self, step: int) -> None:
        """Never called."""

    def flush(self) -> None:
        if self._has_new:
            save_csv(self._run, self._path)
            self._has_new = False

    def close(self) -> None:
        self.flush()
