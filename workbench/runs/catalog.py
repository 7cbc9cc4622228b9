"""Summaries of all runs of a home directory, cached by the modification times of their files."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.config import RunConfig
from llm.errors import UserError
from llm.events import Evaluated, Event, Finished, Started, StepLogged
from llm.files import directory_size
from llm.run import EventTail, Holder, Run
from llm.run.log import last_event_of, last_events, paused_after
from llm.run.parts import check_parts
from workbench.runs.summaries import CachedSummaries, RunSummary, Stamp, load_summaries, save_summaries

PARTS = ("run.toml", "events.jsonl", "checkpoints", "meta.json", "lock")
"""The files a summary is made from. Taking the lock writes it."""

MISSING: Stamp = (0, 0)
FORBIDDEN: Stamp = (-1, 0)  # of a file that may exist, but cannot be accessed
SAVE_SECONDS = 10.0  # minimum time between two writes of the cache


@dataclass
class LogDigest:
    """The last event of each kind that a summary needs. Reads only the end of a long log, searches backwards for other
    kinds, and later reads only what was appended."""

    tail: EventTail
    started: Started | None = None
    step: StepLogged | None = None
    evaluated: Evaluated | None = None
    last: Event | None = None
    paused: bool = False

    @classmethod
    def from_log(cls, path: Path) -> LogDigest:
        size = path.stat().st_size if path.exists() else 0
        digest = cls(EventTail(path, size))
        digest.update(last_events(path))
        digest.last = digest.last or last_event_of(path, Event)  # many damaged lines follow it
        digest.started = digest.started or last_event_of(path, Started)
        digest.step = digest.step or last_event_of(path, StepLogged)
        digest.evaluated = digest.evaluated or last_event_of(path, Evaluated)
        return digest

    def update(self, events: Iterable[Event]) -> None:
        for event in events:
            self.last = event
            self.paused = paused_after([event], self.paused)
            if isinstance(event, Started):
                self.started = event
                if self.step is not None and self.step.step > event.step:
                    self.step = None
            elif isinstance(event, StepLogged):
                self.step = event
            elif isinstance(event, Evaluated):
                self.evaluated = event

    @property
    def steps_done(self) -> int:
        """The last completed step in the log."""
        return max(getattr(self.last, "step", 0), self.step.step if self.step else 0)


@dataclass
class _CachedRun:
    """What is cached of one run between two refreshes."""

    config: RunConfig
    info: dict[str, Any]
    digest: LogDigest
    stamp: tuple[Stamp, ...] = ()
    size_bytes: int = 0
    meta: dict[str, Any] = field(default_factory=dict)


class RunCatalog:
    """Summaries of all runs below `home`. `refresh` is thread-safe; concurrent calls wait for each other."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._runs: dict[str, _CachedRun] = {}
        self._lock = threading.Lock()
        self._summaries: CachedSummaries | None = None
        """Summaries with the stamps of the files they were made from; read from disk by the first refresh."""
        self._changed = False
        self._saved_at = -math.inf

    def refresh(self, progress: Callable[[int, int], object] = lambda done, total: None) -> list[RunSummary]:
        """All runs, newest first. An unchanged run costs a few `stat` calls, and keeps its summary object.

        `progress` gets the number of changed runs read so far, and their total.
        """
        with self._lock:
            stamps = run_stamps(self.home)
            self._runs = {name: known for name, known in self._runs.items() if name in stamps}
            self._summaries = load_summaries(self.home) if self._summaries is None else self._summaries
            before = len(self._summaries)
            self._summaries = {name: kept for name, kept in self._summaries.items() if name in stamps}
            self._changed = self._changed or len(self._summaries) < before
            changed = [name for name, stamp in stamps.items() if self._summaries.get(name, (None,))[0] != stamp]
            read: dict[str, RunSummary | None] = {}
            for name in changed:
                read[name] = self._summary(Run(self.home / "runs" / name), stamps[name])
                progress(len(read), len(changed))
            if self._changed and time.monotonic() - self._saved_at > SAVE_SECONDS:
                save_summaries(self.home, self._summaries)
                self._changed, self._saved_at = False, time.monotonic()
            found = (read[name] if name in read else self._summaries[name][1] for name in stamps)
            return [summary for summary in found if summary is not None]

    def _summary(self, run: Run, stamp: tuple[Stamp, ...]) -> RunSummary | None:
        """None for a run that was deleted meanwhile."""
        assert self._summaries is not None
        try:
            summary = self._summarize(run, self._read(run, stamp))
        except FileNotFoundError:
            self._summaries.pop(run.name, None)
            return None
        except (UserError, OSError) as error:
            self._runs.pop(run.name, None)
            return RunSummary(run.name, run.path, "unreadable", reason=why_unreadable(error))
        if not summary.is_running:  # the end of a training changes no file
            self._summaries[run.name] = (stamp, summary)
            self._changed = True
        return summary

    def _read(self, run: Run, stamp: tuple[Stamp, ...]) -> _CachedRun:
        known = self._runs.get(run.name)
        if known is None or stamp != known.stamp:
            check_parts(run.path)
        if known is None:
            digest = LogDigest.from_log(run.path / "events.jsonl")
            known = self._runs[run.name] = _CachedRun(run.config(), run.info(), digest)
        if stamp != known.stamp:
            known.digest.update(known.digest.tail.poll())
            known.size_bytes = directory_size(run.path)
            known.meta = run.meta()
            known.stamp = stamp
        return known

    def _summarize(self, run: Run, known: _CachedRun) -> RunSummary:
        digest, started = known.digest, known.digest.started
        created = float(known.info.get("created", 0.0))
        was_imported = "imported_from" in known.info  # its settings of data and length are defaults without a meaning
        return RunSummary(
            name=run.name,
            path=run.path,
            status=status_of(run.holder(), digest.last, paused=digest.paused),
            step=digest.steps_done,
            total_steps=started.total_steps if started else 0 if was_imported else known.config.train.steps,
            loss=digest.step.loss if digest.step else None,
            validation_loss=digest.evaluated.validation_loss if digest.evaluated else None,
            bits_per_byte=digest.evaluated.bits_per_byte if digest.evaluated else None,
            parameters=started.parameters if started else 0,
            corpus="" if was_imported else known.config.data.corpus,
            size_bytes=known.size_bytes,
            created=created,
            touched=digest.last.time if digest.last else created,
            device=started.device if started else "",
            id=str(known.info.get("id", "")),
            parent=str(known.info.get("parent", "")),
            parent_id=str(known.info.get("parent_id", "")),
            notes=str(known.meta.get("notes", "")),
            tags=tuple(str(tag) for tag in known.meta.get("tags", ())),
            reason=digest.last.reason if isinstance(digest.last, Finished) else "",
        )


def run_stamps(home: Path) -> dict[str, tuple[Stamp, ...]]:
    """Run name → the stamps of its files, newest run first. Fast enough to be called every second for 10,000 runs."""
    folder = f"{home}/runs"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return {}
    found = ((name, tuple(_stamp(f"{folder}/{name}/{part}") for part in PARTS)) for name in names)
    runs = [(name, stamps) for name, stamps in found if stamps[0] != MISSING]
    return dict(sorted(runs, key=lambda run: -run[1][0][1]))


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - creating a Path takes longer than the call
    except PermissionError:
        return FORBIDDEN
    except OSError:  # missing, or a broken link
        return MISSING
    return (status.st_size, status.st_mtime_ns)


def why_unreadable(error: UserError | OSError) -> str:
    """Why a run cannot be read, as a sentence."""
    if isinstance(error, UserError):
        return str(error)
    return f"{error.filename or 'it'} cannot be read ({error.strerror}); fix its permissions or restore a copy."


def status_of(holder: Holder | None, last: Event | None, *, paused: bool = False) -> str:
    """The status of a run: where it is trained, or how its log ends."""
    if holder is not None:
        return f"{'paused' if paused else 'running'} {'here' if holder.is_here else 'elsewhere'}"
    if last is None:
        return "new"
    return last.status if isinstance(last, Finished) else "crashed"


def has_curves(run: Run) -> bool:
    """Whether a readable log contains a step."""
    try:
        return any(isinstance(event, StepLogged) for event in run.events())
    except OSError:
        return False
