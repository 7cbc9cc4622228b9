"""The two append-only files of a run: `events.jsonl` and `commands.jsonl`."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from llm.errors import UserError
from llm.events import Event, Finished, Paused, Progress, Resumed, Started, Warned, finite, from_record, to_line
from llm.reader import Malformed, check_regular, open_file, parse_json

CHUNK = 1 << 20
MAX_LINE = 16 << 20  # bytes; a longer line is skipped
UNREADABLE = b"\0"  # replaces a part of a line that is too long or holds a NUL, which no JSON does
MAX_PIECE = 16 << 20  # bytes read at once
HOLE_BYTES = 16 << 20
"""Holes of a sparse file are skipped from this length on. Some file systems call data a hole until it is on the
disk, but a live log never has that much of it."""
MAX_SEARCHED = 1 << 32  # bytes at the end of a log in which an event is searched, holes not counted
AnyEvent = TypeVar("AnyEvent", bound=Event)


class LineAppender:
    """Appends lines, each with one `os.write`. If the last line is incomplete, it is terminated before the next one.

    `OSError` unless the file is a regular file, not a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: OSError | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        self.descriptor = os.open(path, flags, 0o644)
        try:
            check_regular(self.descriptor, path)
        except OSError:
            os.close(self.descriptor)
            raise
        size = os.fstat(self.descriptor).st_size
        self.is_incomplete = size > 0 and os.pread(self.descriptor, 1, size - 1) != b"\n"

    def append(self, line: bytes) -> bool:
        """Append a line. Returns whether all of it was written; a full disk raises no error, but sets `failure`."""
        data = b"\n" + line if self.is_incomplete else line
        try:
            written = os.write(self.descriptor, data)
        except OSError as error:
            self.failure = error
            return False
        self.is_incomplete = written < len(data)
        return not self.is_incomplete

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted or moved, so that readers no longer find it."""
        try:
            return not os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except OSError:
            return True

    def close(self) -> None:
        os.close(self.descriptor)


class EventLog:
    """Writes `events.jsonl`. Counts the lines that a full disk rejects, and logs a warning once there is space."""

    def __init__(self, path: Path) -> None:
        self.lines = LineAppender(path)
        self.folder = path.parent.stat()
        self.started: Started | None = None
        self.lost = 0

    def append(self, event: Event) -> None:
        if self.lost:  # before the event: the last line of a run must be its `Finished`
            step = getattr(event, "step", 0)
            note = Warned(step=step, elapsed=event.elapsed, message=f"{self.lost} log lines could not be written.")
            if self.lines.append(to_line(note)):
                self.lost = 0
        if not self.lines.append(to_line(event)):
            self.lost += 1
        if isinstance(event, Started):
            self.started = event

    @property
    def folder_is_gone(self) -> bool:
        """Whether the folder of the run was deleted or moved."""
        try:
            return not os.path.samestat(self.folder, self.lines.path.parent.stat())
        except OSError:
            return True

    def restart(self, step: int) -> None:
        """Continue in a new file after the old one was deleted; repeats `Started` for its readers."""
        try:
            lines = LineAppender(self.lines.path)
        except OSError:
            return  # the disk is full; the next event tries again
        self.lines.close()
        self.lines = lines
        if self.started is not None:
            self.append(self.started)
        self.append(Warned(step=step, message="the event log was removed while training; a new one begins here."))

    def close(self) -> None:
        self.lines.close()


class LineTail:
    """Reads the complete lines appended since the last call. An incomplete last line is kept for the next call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.rest = b""

    def poll(self, limit: int = 1 << 30) -> list[bytes]:
        """New complete lines, without newlines, from at most `limit` new bytes; empty while the file does not exist."""
        return self.read(limit).split(b"\n")[:-1]

    def read(self, limit: int = 1 << 30) -> bytes:
        """`poll` as one bytes object, in which each line ends with a newline."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return b""
        if size < self.offset:  # truncated by another program: continue at the new end
            self.offset, self.rest = size, b""
        if size == self.offset:
            return b""
        texts: list[bytes] = []
        with open_file(self.path) as file:
            stop = min(size, self.offset + limit)
            while self.offset < stop:
                if (start := end_of_hole(file, self.offset, size)) > self.offset:
                    self.offset, self.rest = start, UNREADABLE
                elif data := os.pread(file.fileno(), min(stop - self.offset, MAX_PIECE), self.offset):
                    self.offset += len(data)
                    text = self.rest + data if self.rest else data
                    end = text.rfind(b"\n") + 1
                    texts.append(text[:end])
                    self.rest = readable(text[end:])
                else:  # cut short just now
                    break
        return b"".join(texts)


class EventTail:
    """Reads new events. Lines that are not events (blank, incomplete, filled with NULs, from a newer version) are
    skipped."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.lines = LineTail(path, offset)

    def poll(self, limit: int = 1 << 30) -> list[Event]:
        """The events since the last call, oldest first."""
        return [event for line in self.lines.poll(limit) if (event := parse_event(line)) is not None]


def read_events(path: Path) -> Iterator[Event]:
    """All events of a log, read in chunks. A last line without newline is read if it parses."""
    tail, previous_offset = LineTail(path), -1
    while tail.offset != previous_offset:  # not "while lines": one line may be longer than a chunk
        previous_offset = tail.offset
        yield from (event for line in tail.poll(CHUNK) if (event := parse_event(line)) is not None)
    if (event := parse_event(tail.rest)) is not None:
        yield event


def last_events(path: Path, window: int = 64 * 1024) -> list[Event]:
    """The events in the last `window` bytes of a log, oldest first."""
    return [event for line in newest_lines(path, window) if (event := parse_event(line)) is not None][::-1]


def newest_lines(path: Path, window: int = 64 * 1024) -> Iterator[bytes]:
    """The complete lines in the last `window` bytes of a log, last one first."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    start = max(0, size - window)
    text = LineTail(path, start).read()
    first = text.find(b"\n") + 1 if start else 0
    end = len(text) - 1
    while end >= first:
        begin = max(first, text.rfind(b"\n", first, end) + 1)
        yield text[begin:end]
        end = begin - 1


def paused_after(events: Iterable[Event], paused: bool = False) -> bool:
    """Whether a run is paused after `events`; `paused` is its state before them. A run that was killed while paused and
    is started again is not paused."""
    for event in events:
        if isinstance(event, Paused | Resumed | Started | Finished):
            paused = isinstance(event, Paused)
        elif isinstance(event, Progress) and event.step == 0:
            paused = False
    return paused


def last_event_of(path: Path, kind: type[AnyEvent]) -> AnyEvent | None:
    """The last event of `kind` in the last MAX_SEARCHED bytes of a log, or None; searched from the end."""
    if not path.exists():
        return None
    with open_file(path) as file:
        return next((event for text in texts_from_end(file) for event in events_of(text, kind)), None)


def texts_from_end(file: BinaryIO) -> Iterator[bytes]:
    """The last MAX_SEARCHED bytes of a log, not counting holes, as texts of whole lines, last ones first."""
    end = os.fstat(file.fileno()).st_size
    rest = b""  # the end of a line that begins before `end`
    left, stride = MAX_SEARCHED, HOLE_BYTES
    while end and left > 0:
        start = max(0, end - stride)
        if end_of_hole(file, start, end) == end:
            end, rest, stride = start, UNREADABLE, 2 * stride
        elif stride > HOLE_BYTES:
            stride = HOLE_BYTES
        else:
            start = max(0, end - CHUNK)
            text = os.pread(file.fileno(), end - start, start) + rest
            first = text.find(b"\n") + 1 if start else 0
            if first or not start:
                yield text[first:]
            left -= end - start
            end, rest = start, readable(text[:first] if first else text)


def end_of_hole(file: BinaryIO, start: int, end: int) -> int:
    """Where the hole of a sparse file at `start` ends, at most at `end`; `start` where there is no long hole."""
    if end - start < HOLE_BYTES:
        return start
    try:
        data = min(end, os.lseek(file.fileno(), start, os.SEEK_DATA))
    except OSError as error:  # ENXIO: the file ends with this hole; EINVAL: the file system does not tell
        data = end if error.errno == errno.ENXIO else start
    return data if data - start >= HOLE_BYTES else start


def readable(part: bytes) -> bytes:
    """A part of a line; UNREADABLE if that line cannot be read, so that not all of it must be kept in memory."""
    return UNREADABLE if len(part) > MAX_LINE or b"\0" in part else part


def events_of(log: bytes, kind: type[AnyEvent]) -> Iterator[AnyEvent]:
    """The events of `kind`, or all if it is `Event`, in the lines of a log, last one first."""
    needle, end = (f'{{"type": "{kind.__name__}"' if kind is not Event else '{"type": "').encode(), len(log)
    while (start := log.rfind(needle, 0, end)) >= 0:
        event = parse_event(log[start:stop] if (stop := log.find(b"\n", start)) >= 0 else log[start:])
        if isinstance(event, kind) and (start == 0 or log[start - 1 : start] == b"\n"):
            yield event
        end = start


def parse_event(line: bytes) -> Event | None:
    """The event of a line; None if it is not a known event."""
    record = parse_record(line)
    return from_record(record) if record is not None else None


def parse_record(line: bytes) -> dict[str, Any] | None:
    if not line or line[:1] != b"{":
        return None
    try:
        record = parse_json(line)
    except Malformed:
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True)
class Command:
    """One line of `commands.jsonl`: a command to the trainer."""

    name: str
    id: str
    arguments: dict[str, Any] = field(default_factory=dict)


def send_command(path: Path, name: str, arguments: dict[str, Any]) -> str:
    """Append a command; returns its id, which the event that answers it repeats. UserError if it cannot be written."""
    identity = secrets.token_hex(6)
    record = {"command": name, "id": identity, "time": time.time(), "arguments": arguments}
    line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    try:
        appender = LineAppender(path)
        try:
            if not appender.append(line + b"\n"):
                raise appender.failure or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            appender.close()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}), so the trainer did not get the command {name}; free some "
            "space there, or allow writing, and try again."
        ) from error
    return identity


class CommandTail:
    """Reads the commands sent since this object was created."""

    def __init__(self, path: Path) -> None:
        self.lines = LineTail(path, path.stat().st_size if path.exists() else 0)

    def poll(self) -> list[Command]:
        """The new commands. Costs one `stat` if there are none."""
        records = (parse_record(line) for line in self.lines.poll())
        return [command_from(record) for record in records if record is not None]


def command_from(record: dict[str, Any]) -> Command:
    """A command from a JSON object whose fields may have any type."""
    arguments = record.get("arguments")
    known = arguments if isinstance(arguments, dict) else {}
    return Command(str(record.get("command", "")), str(record.get("id", "")), known)
