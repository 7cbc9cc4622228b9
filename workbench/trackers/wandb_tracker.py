"""Weights & Biases, through its package.

It drops steps that go back and cannot forget one, so it gets final steps only. Without `$WANDB_API_KEY` or
`$WANDB_MODE` it writes an offline run, which `wandb sync` uploads: it never asks for a login.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from llm.config import to_mapping
from llm.run import Run
from workbench.trackers.metrics import Row
from workbench.trackers.progress_file import LastStep

PROJECT = "llm-workbench"


class WandbTracker:
    """One W&B run per run; a resumed run continues it."""

    can_rewind: ClassVar[bool] = False

    def __init__(self, run: Run, out: Path) -> None:
        import wandb

        out.mkdir(parents=True, exist_ok=True)
        run_id = str(run.info().get("id", run.name))
        self._last = LastStep(out / f"{run.name}.json", run_id)
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=f"{run.name}-{run_id}"[:64],
            name=run.name,
            dir=str(out),
            mode=mode,  # type: ignore[arg-type]
            resume="allow",
            config=to_mapping(run.config()),
            settings=settings,
        )
        self._folder = self._run.dir
        self._is_offline = mode == "offline"

    @property
    def place(self) -> str:
        return f"wandb sync {Path(self._folder).parent}" if self._is_offline else str(self._run.url)

    def log(self, row: Row) -> None:
        if self._last.is_new(row.step):
            self._run.log(row.metrics | {"time": row.time}, step=row.step)
            self._last.note(row.step)

    def rewind(self, step: int) -> None:
        """Never called."""

    def flush(self) -> None:
        """W&B writes by itself."""

    def close(self) -> None:
        self._run.finish()
        self._last.save()
