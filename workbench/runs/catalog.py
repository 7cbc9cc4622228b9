"""What the Runs screen shows and does: a summary of every run below a home directory, kept cheap by caching."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm.config import RunConfig
from llm.errors import UserError, WrongUse
from llm.events import Evaluated, Event, Finished, Started, StepLogged
from llm.files import directory_size, remove_directory
from llm.run import CheckpointInfo, EventTail, Holder, Run, check_run_name, verify
from llm.run.log import last_event_of, last_events, paused_after
from llm.run.parts import check_parts
from workbench.runs.summaries import Kept, RunSummary, Stamp, load_summaries, save_summaries

SORTS = ("age", "name", "status", "step", "loss", "validation", "bits", "parameters", "corpus", "size")
"""The columns the table can be ordered by."""

PARTS = ("run.toml", "events.jsonl", "checkpoints", "meta.json", "lock")
"""What a summary is made from. The lock is written by whoever takes it."""

NOTHING: Stamp = (0, 0)
UNSEEN: Stamp = (-1, 0)  # of a file that may be there, but may not be looked at
KEEP_SECONDS = 10.0  # at least, between two writings of what is kept of all runs


@dataclass
class LogDigest:
    """The last event of each kind that matters, from a log of any length: its end is read, and searched backwards for
    what is not there; after that only what is appended."""

    tail: EventTail
    started: Started | None = None
    step: StepLogged | None = None
    evaluated: Evaluated | None = None
    last: Event | None = None
    paused: bool = False

    @classmethod
    def of(cls, path: Path) -> LogDigest:
        size = path.stat().st_size if path.exists() else 0
        digest = cls(EventTail(path, size))
        digest.take(last_events(path))
        digest.started = digest.started or last_event_of(path, Started)
        digest.step = digest.step or last_event_of(path, StepLogged)
        digest.evaluated = digest.evaluated or last_event_of(path, Evaluated)
        return digest

    def take(self, events: Iterable[Event]) -> None:
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
        """The last completed step that the log knows of."""
        return max(getattr(self.last, "step", 0), self.step.step if self.step else 0)


@dataclass
class _Known:
    """What is remembered of one run between two looks."""

    config: RunConfig
    info: dict[str, Any]
    digest: LogDigest
    stamp: tuple[Stamp, ...] = ()
    size_bytes: int = 0
    meta: dict[str, Any] = field(default_factory=dict)


class RunCatalogue:
    """Summaries of all runs below `home`. `refresh` may be called from any thread, one call at a time being served."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._kept: Kept | None = None
        """Summaries with the stamps of the files they were made from; read from a file at the first look."""
        self._changed = False
        self._kept_at = -math.inf

    def refresh(self, progress: Callable[[int, int], object] = lambda done, total: None) -> list[RunSummary]:
        """All runs as they stand now, newest first. A run that did not change costs a few `stat` calls, and
        gives the same summary, the very object, as before. `progress` is told of each of the others that was read, and
        how many there are."""
        with self._lock:
            stamps = run_stamps(self.home)
            self._known = {name: known for name, known in self._known.items() if name in stamps}
            self._kept = load_summaries(self.home) if self._kept is None else self._kept
            before = len(self._kept)
            self._kept = {name: kept for name, kept in self._kept.items() if name in stamps}
            self._changed = self._changed or len(self._kept) < before
            changed = [name for name, stamp in stamps.items() if self._kept.get(name, (None,))[0] != stamp]
            read: dict[str, RunSummary | None] = {}
            for name in changed:
                read[name] = self._summary(Run(self.home / "runs" / name), stamps[name])
                progress(len(read), len(changed))
            if self._changed and time.monotonic() - self._kept_at > KEEP_SECONDS:
                save_summaries(self.home, self._kept)
                self._changed, self._kept_at = False, time.monotonic()
            found = (read[name] if name in read else self._kept[name][1] for name in stamps)
            return [summary for summary in found if summary is not None]

    def _summary(self, run: Run, stamp: tuple[Stamp, ...]) -> RunSummary | None:
        """None for a run that was deleted while it was looked at."""
        assert self._kept is not None
        try:
            summary = self._described(run, self._look(run, stamp))
        except FileNotFoundError:
            self._kept.pop(run.name, None)
            return None
        except (UserError, OSError) as error:
            self._known.pop(run.name, None)
            return RunSummary(run.name, run.path, "unreadable", reason=why_unreadable(error))
        if not summary.is_running:  # that a training ends shows in no file
            self._kept[run.name] = (stamp, summary)
            self._changed = True
        return summary

    def _look(self, run: Run, stamp: tuple[Stamp, ...]) -> _Known:
        known = self._known.get(run.name)
        if known is None or stamp != known.stamp:
            check_parts(run.path)
        if known is None:
            digest = LogDigest.of(run.path / "events.jsonl")
            known = self._known[run.name] = _Known(run.config(), run.info(), digest)
        if stamp != known.stamp:
            known.digest.take(known.digest.tail.poll())
            known.size_bytes = directory_size(run.path)
            known.meta = run.meta()
            known.stamp = stamp
        return known

    def _described(self, run: Run, known: _Known) -> RunSummary:
        digest, started = known.digest, known.digest.started
        created = float(known.info.get("created", 0.0))
        return RunSummary(
            name=run.name,
            path=run.path,
            status=status_of(run.holder(), digest.last, paused=digest.paused),
            step=digest.steps_done,
            total_steps=started.total_steps if started else known.config.train.steps,
            loss=digest.step.loss if digest.step else None,
            validation_loss=digest.evaluated.validation_loss if digest.evaluated else None,
            bits_per_byte=digest.evaluated.bits_per_byte if digest.evaluated else None,
            parameters=started.parameters if started else 0,
            corpus=known.config.data.corpus,
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
    """By name, the newest run first: the stamps of its parts. Done every second or so, for thousands of runs."""
    folder = f"{home}/runs"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return {}
    found = ((name, tuple(_stamp(f"{folder}/{name}/{part}") for part in PARTS)) for name in names)
    runs = [(name, stamps) for name, stamps in found if stamps[0] != NOTHING]
    return dict(sorted(runs, key=lambda run: -run[1][0][1]))


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path for each of many thousands costs more than the question
    except PermissionError:
        return UNSEEN
    except OSError:  # nothing there, or links that lead nowhere
        return NOTHING
    return (status.st_size, status.st_mtime_ns)


def why_unreadable(error: UserError | OSError) -> str:
    """What stands in the way of reading a run, as a sentence."""
    if isinstance(error, UserError):
        return str(error)
    return f"{error.filename or 'it'} cannot be read ({error.strerror}); allow that, or restore it from a copy."


def status_of(holder: Holder | None, last: Event | None, *, paused: bool = False) -> str:
    """How a run stands, in words: who trains it, or how its log ends."""
    if holder is not None:
        return f"{'paused' if paused else 'running'} {'here' if holder.is_here else 'elsewhere'}"
    if last is None:
        return "new"
    return last.status if isinstance(last, Finished) else "crashed"


def chosen(
    summaries: Sequence[RunSummary], text: str = "", sort: str = "age", reverse: bool = False
) -> list[RunSummary]:
    """The runs whose name, status, corpus, notes or tags hold every word of `text`, in order of one column.

    Numbers come best first (the newest, the furthest, the lowest loss), unknown ones last in either direction.
    """
    words = text.casefold().split()
    rows = [row for row in summaries if all(word in _searched(row) for word in words)]
    known = [row for row in rows if _sort_key(row, sort) is not None]
    unknown = [row for row in rows if _sort_key(row, sort) is None]
    return sorted(known, key=lambda row: _sort_key(row, sort), reverse=reverse) + unknown


def _searched(row: RunSummary) -> str:
    return " ".join((row.name, row.status, row.corpus, row.notes, row.parent, *row.tags)).casefold()


def _sort_key(row: RunSummary, sort: str) -> Any:
    keys: dict[str, Any] = {
        "age": -row.touched,
        "name": row.name.casefold(),
        "status": (not row.is_running, row.status),
        "step": -row.step,
        "loss": row.loss,
        "validation": row.validation_loss,
        "bits": row.bits_per_byte,
        "parameters": -row.parameters,
        "corpus": row.corpus.casefold(),
        "size": -row.size_bytes,
    }
    value = keys[sort]
    return None if isinstance(value, float) and value != value else value


Verdict = Literal["whole", "damaged"]


@dataclass(frozen=True)
class Verification:
    """What reading every byte of a checkpoint showed."""

    verdict: Verdict
    problem: str = ""


def verified(info: CheckpointInfo, progress: Callable[[int], object] = lambda count: None) -> Verification:
    """Read a checkpoint in full; for a thread. `progress` is told the number of bytes read since it was last called."""
    try:
        verify(info, progress)
    except UserError as error:
        return Verification("damaged", str(error))
    return Verification("whole")


def has_curves(run: Run) -> bool:
    """Whether the run has logged a step, in a log that can be read; no further than to the first."""
    try:
        return any(isinstance(event, StepLogged) for event in run.events())
    except OSError:
        return False


def pin(run: Run, step: int) -> bool:
    """Pin the checkpoint of `step`, or unpin it; returns whether it is pinned now. Pinned ones are never pruned."""
    pins = set(run.meta()["pins"])
    pins ^= {step}
    run.update_meta(pins=sorted(pins))
    return step in pins


def check_new_name(run: Run, name: str) -> None:
    """`WrongUse` for what cannot be the new name of a run."""
    check_run_name(name)
    if run.path.with_name(name).exists():
        raise WrongUse(f"a run named {name} exists already; choose another name.")


def rename(run: Run, name: str) -> Run:
    """Give a run that is not in training another name."""
    check_new_name(run, name)
    target = run.path.with_name(name)
    with run.lock():
        run.path.rename(target)
    return Run(target)


def delete_checkpoint(run: Run, info: CheckpointInfo) -> None:
    """Delete one checkpoint, and its pin. `RunBusy` while somebody trains the run, and may be about to load it."""
    with run.lock():
        remove_directory(info.path)
        pins = [step for step in run.meta()["pins"] if step != info.step]
        run.update_meta(pins=pins)


def loss_of_deleting(summary: RunSummary, checkpoints: Sequence[CheckpointInfo], size: str) -> str:
    """What goes when a run is deleted, in one plain sentence."""
    parts = []
    if checkpoints:
        steps = ", ".join(str(info.step) for info in checkpoints[-5:])
        number = "its only checkpoint" if len(checkpoints) == 1 else f"all {len(checkpoints)} checkpoints"
        parts.append(f"{number} (step {steps})" if len(checkpoints) <= 5 else f"{number} (newest {steps})")
    parts.append(f"the record of {summary.step:,} steps")
    if summary.notes:
        parts.append("your notes")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"Deleting {summary.name} ({size}) loses {listed}, once the trash is emptied; until then it can be restored."
