"""The table of a run's checkpoints on the Runs screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.text import Text
from textual import work
from textual.content import Content

from llm.errors import UserError
from llm.run import CheckpointInfo, Run
from workbench.runs.operations import verify_checkpoint
from workbench.runs.rows import PROGRESS_SECONDS, checkpoint_cells, checkpoint_columns, damaged_cells
from workbench.ui.notices import notify_error
from workbench.ui.tables import BAR, LiveTable


class CheckpointTable(LiveTable):
    """The checkpoints of one run, newest first; damaged ones are listed as such. `verify` reads them in a thread."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.run_name = ""
        """The run whose checkpoints are listed; "" for none."""
        self.checkpoints: list[CheckpointInfo] = []
        self.damaged: dict[int, str] = {}
        """Step → reason, of the checkpoints that cannot be used."""
        self._checks: dict[str, str | float] = {}
        """Path of a checkpoint → what is wrong with it ("" if intact) or, while it is read, the share read so far."""

    @property
    def selected(self) -> CheckpointInfo | None:
        """The checkpoint under the cursor; None where there is none or it is damaged."""
        return next((info for info in self.checkpoints if str(info.step) == self.current), None)

    @property
    def selected_damage(self) -> str:
        """Why the checkpoint under the cursor cannot be used; "" where it can."""
        return next((reason for step, reason in self.damaged.items() if damaged_key(step) == self.current), "")

    def list_run(self, run: Run | None) -> None:
        """List the checkpoints of a run; nothing for None."""
        is_other_run = run is None or run.name != self.run_name
        self.run_name = run.name if run else ""
        try:
            self.checkpoints, self.damaged = (run.checkpoints(), run.damaged_checkpoints()) if run else ([], {})
        except (UserError, OSError):
            self.checkpoints, self.damaged = [], {}
        self.border_title = Content(f"checkpoints of {self.run_name}" if self.run_name else "checkpoints").markup
        self.show_checkpoints()
        if is_other_run and self.keys:
            self.move_cursor(row=0)

    def show_checkpoints(self) -> None:
        """Fill the table from what is known."""
        rows = [(info.step, str(info.step), checkpoint_cells(info, self._check_of(info))) for info in self.checkpoints]
        rows += [(step, damaged_key(step), damaged_cells(step)) for step in self.damaged]
        newest_first = sorted(rows, key=lambda row: -row[0])
        room = self.outer_size.width - BAR
        self.show_rows(*checkpoint_columns([(key, cells) for _, key, cells in newest_first], room))

    def verify(self) -> None:
        """Compare every byte with the checksums: of the checkpoint under the cursor or, without focus, of all."""
        selected = self.selected if self.has_focus else None
        infos = [selected] if selected is not None else self.checkpoints
        for info in infos:
            self._checks[str(info.path)] = 0.0
        self.show_checkpoints()
        self._verify(list(infos))

    @work(thread=True, group="runs-verify")
    def _verify(self, infos: Sequence[CheckpointInfo]) -> None:
        for info in infos:
            found = verify_checkpoint(info, self._progress_of(info))
            self._checks[str(info.path)] = found
            if found:
                notify_error(self.app, found)
            self.app.call_from_thread(self.show_checkpoints)

    def _progress_of(self, info: CheckpointInfo) -> Callable[[int], None]:
        """A function that takes the bytes read, and shows the share of the checkpoint a few times a second."""
        done, shown = 0, time.monotonic()

        def add(count: int) -> None:
            nonlocal done, shown
            done += count
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                self._checks[str(info.path)] = done / max(1, info.size_bytes)
                self.app.call_from_thread(self.show_checkpoints)

        return add

    def _check_of(self, info: CheckpointInfo) -> Text:
        found = self._checks.get(str(info.path))
        if found is None:
            return Text("—", style="dim")
        if isinstance(found, float):
            return Text(f"{found:.0%}")
        return Text("damaged", style="red") if found else Text("intact", style="green")


def damaged_key(step: int) -> str:
    """The key of the row of a damaged checkpoint."""
    return f"damaged {step}"
