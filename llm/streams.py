"""Make the standard streams fail-safe, so that an output error cannot end a training."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def repair_streams() -> None:
    """Open descriptors 0, 1 and 2 where they are closed, and make stderr drop what cannot be written.

    The next file that is opened, such as a checkpoint, would get a closed descriptor (`2>&-`), and libraries would
    write warnings into it. A full disk, a closed pipe or a lost terminal under stderr must not end a training. Replaced
    streams are left unchanged.
    """
    streams: Any = sys
    for descriptor, (name, mode) in enumerate(STREAMS):
        open_on_null(descriptor)
        if getattr(streams, name) is None:
            setattr(streams, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        streams.stderr = to_tolerant_stream(sys.stderr)


def open_on_null(descriptor: int) -> None:
    """Open `descriptor` on the null device unless it is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)


def to_tolerant_stream(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A text stream to the descriptor of `stream` that never raises."""
    raw = TolerantWriter(stream.fileno())
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=True)


class TolerantWriter(io.RawIOBase):
    """Writes to a descriptor, and drops what cannot be written. Closing it leaves the descriptor open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any, /) -> int:
        """The number of bytes written or dropped."""
        try:
            return os.write(self.descriptor, data)
        except OSError:
            return memoryview(data).nbytes
