"""Reading from many token files without holding a descriptor for each: few stay open, the others are opened again.

A corpus of 100,000 files is read like one of three, under any `ulimit -n`. A file that is cut while it is in use gives
fewer bytes, and no signal, as a memory map would.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from llm.errors import UserError
from llm.reader import TooManyOpenFiles, open_file

MOST_OPEN = 32


class OpenFiles:
    """The open files of one sequence of tokens; may be used from several threads."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._seen: dict[Path, tuple[int, int]] = {}
        """Device and inode of every file that was opened: one opened again must still be the same."""
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, size: int) -> tuple[bytes, int]:
        """`size` bytes from byte `offset` on, fewer where the file ends, and how long the file is now. UserError where
        it cannot be read."""
        with self._lock:
            try:
                descriptor = self._opened(path).fileno()
                return read_fully(descriptor, offset, size), os.fstat(descriptor).st_size
            except OSError as error:
                raise UserError(
                    f"The token file {path} cannot be read ({error.strerror}); check that it is there and may be read."
                ) from error

    @property
    def count(self) -> int:
        """How many are open now."""
        return len(self._files)

    def _opened(self, path: Path) -> BinaryIO:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= self._most:
            self._files.popitem(last=False)[1].close()
        file = self._open_new(path)
        status = os.fstat(file.fileno())
        if self._seen.setdefault(path, (status.st_dev, status.st_ino)) != (status.st_dev, status.st_ino):
            file.close()
            raise UserError(f"The token file {path} was replaced by another while it was in use; start again.")
        self._files[path] = file
        return file

    def _open_new(self, path: Path) -> BinaryIO:
        """The file; where the process may open no more, in the place of one of ours, and from then on with as few."""
        while True:
            try:
                return open_file(path)
            except TooManyOpenFiles:
                if not self._files:
                    raise
                self._files.popitem(last=False)[1].close()
                self._most = max(1, len(self._files))


def read_fully(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, fewer at the end of the file: one call may return less than it was asked for."""
    data = os.pread(descriptor, size, offset)
    if len(data) in (0, size):
        return data
    parts = [data]
    while size > (have := sum(map(len, parts))) and (more := os.pread(descriptor, size - have, offset + have)):
        parts.append(more)
    return b"".join(parts)
