"""trackio, through its package: a SQLite file, with NaN as the string "NaN".

Its rows cannot be taken back, so it gets final steps only.
"""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from llm.config import to_mapping
from llm.run import Run
from workbench.trackers.metrics import Row
from workbench.trackers.progress_file import LastStep

PROJECT = "llm-workbench"


class TrackioTracker:
    """One trackio run per run; a resumed run continues it."""

    can_rewind: ClassVar[bool] = False

    def __init__(self, run: Run, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._folder = Path(os.environ.setdefault("TRACKIO_DIR", str(out)))  # read when trackio is imported
        import trackio

        self._last = LastStep(self._folder / f"{run.name}.json", str(run.info().get("id", run.name)))
        with redirect_stdout(StringIO()):  # its greeting names the command without TRACKIO_DIR
            self._run: Any = trackio.init(
                project=PROJECT,
                name=run.name,
                config=to_mapping(run.config()),
                resume="allow" if self._last.before >= 0 else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    @property
    def place(self) -> str:
        return f"TRACKIO_DIR={self._folder} trackio show --project {PROJECT}"

    def log(self, row: Row) -> None:
        if self._last.is_new(row.step):
            self._run.log(row.metrics | {"unix_time": row.time}, step=row.step)
            self._last.note(row.step)

    def rewind(self, step: int) -> None:
        """Never called."""

    def flush(self) -> None:
        """trackio writes by itself."""

    def close(self) -> None:
        with redirect_stdout(StringIO()):
            self._run.finish()
        self._last.save()
