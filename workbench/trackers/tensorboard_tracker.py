"""TensorBoard event files, through the writer of the `tensorboard` package.

Scalars are float32 there. A `SessionLog` START event makes readers discard the steps from its own on (TensorBoard's
`purge_step`); a new file begins with one for step 0, so that a reader starts again. The newest older file stays: a
TensorBoard that is open moves on to the next file only from one that exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from llm.run import Run
from workbench.trackers.metrics import Row

QUEUE_EVENTS = 1000
FLUSH_SECONDS = 3600  # `flush` is called


class TensorBoardTracker:
    """Writes all steps to a new event file in `out`/NAME."""

    can_rewind: ClassVar[bool] = True

    def __init__(self, run: Run, out: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._session, self._summary = Event, SessionLog, Summary
        self._folder = out / run.name
        self._folder.mkdir(parents=True, exist_ok=True)
        older = sorted(self._folder.glob("events.out.tfevents.*"))
        self._writer: Any = EventFileWriter(str(self._folder), QUEUE_EVENTS, FLUSH_SECONDS)
        self._purge_from(0)
        for path in older[:-1]:
            path.unlink()

    @property
    def place(self) -> str:
        return f"tensorboard --logdir {self._folder.parent}"

    def log(self, row: Row) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=row.time, step=row.step, summary=summary))

    def rewind(self, step: int) -> None:
        self._purge_from(step + 1)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _purge_from(self, step: int) -> None:
        start = self._session(status=self._session.START)
        self._writer.add_event(self._event(step=step, session_log=start))
