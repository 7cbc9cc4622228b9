"""Reads the event log of a run and hands its metrics to trackers.

`Started.step` and `RolledBack.step` void later steps. A tracker that fails is dropped, with one warning: nothing
here can stop a training, which runs in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm.events import Event, RolledBack, Saved, Started
from llm.run import EventTail, Run
from workbench.trackers.metrics import Row, row_of
from workbench.trackers.tracker import TRACKERS, Tracker

CHUNK_BYTES = 1 << 22

Say = Callable[[str], object]


class Follower:
    """Hands the rows of `run` to trackers, by their names. `say` gets the sentence about a tracker that failed."""

    def __init__(self, run: Run, places: dict[str, Path], say: Say) -> None:
        self._say = say
        self._tail = EventTail(run.path / "events.jsonl")
        self._pending: list[Row] = []
        """Rows that no checkpoint holds yet, for the trackers that cannot discard a step."""
        self._saved_step = -1
        self.trackers: dict[str, Tracker] = {}
        for name, place in places.items():
            self._attempt(name, lambda name=name, place=place: self._open(name, run, place))  # type: ignore[misc]

    def poll(self) -> None:
        """Hand on what is new in the log."""
        while events := self._tail.poll(CHUNK_BYTES):
            for event in events:
                self._note(event)
        self._each(lambda tracker: tracker.flush())

    def close(self, *, with_unsaved: bool) -> None:
        """Close the trackers. `with_unsaved`: hand on also the steps that no checkpoint holds."""
        if with_unsaved and self._pending:
            self._confirm(max(row.step for row in self._pending))
        self._each(lambda tracker: tracker.close())
        self.trackers.clear()

    def _open(self, name: str, run: Run, place: Path) -> None:
        _, open_tracker = TRACKERS[name]
        self.trackers[name] = open_tracker(run, place)

    def _note(self, event: Event) -> None:
        if isinstance(event, Started | RolledBack):
            self._pending = [row for row in self._pending if row.step <= event.step]
            self._saved_step = min(self._saved_step, event.step)
            self._each(lambda tracker: tracker.rewind(event.step), can_rewind=True)
        elif isinstance(event, Saved) and event.kind == "checkpoint":
            self._confirm(event.step)
        elif (row := row_of(event)) is not None:
            self._pending.append(row)
            self._each(lambda tracker: tracker.log(row), can_rewind=True)
            if row.step <= self._saved_step:  # an evaluation after the checkpoint of its step
                self._confirm(self._saved_step)

    def _confirm(self, step: int) -> None:
        """The steps up to `step` are final."""
        self._saved_step = step
        final = [row for row in self._pending if row.step <= step]
        self._pending = [row for row in self._pending if row.step > step]
        for row in final:
            self._each(lambda tracker, row=row: tracker.log(row), can_rewind=False)  # type: ignore[misc]

    def _each(self, action: Callable[[Tracker], object], can_rewind: bool | None = None) -> None:
        for name, tracker in list(self.trackers.items()):
            if can_rewind is None or tracker.can_rewind == can_rewind:
                self._attempt(name, lambda tracker=tracker: action(tracker))  # type: ignore[misc]

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the packages raise any exception, and the other trackers continue
            self.trackers.pop(name, None)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._say(f"warning: tracking in {name} has stopped ({reason}); training is not affected.")
