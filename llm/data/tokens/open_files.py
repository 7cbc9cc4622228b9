"""Reading many token files with few file descriptors: the least recently used are closed and reopened.

A corpus of 100,000 files works under any `ulimit -n`. A file truncated while in use gives fewer bytes, not SIGBUS like
a memory map.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from llm.errors import UserError
from llm.reader import TooManyOpenFiles, open_file

MAX_OPEN = 32


class OpenFiles:
    """The open files of one sequence of tokens; thread-safe."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self._limit = limit
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._identities: dict[Path, tuple[int, int]] = {}
        """Device and inode of every file opened so far: a reopened file must be the same."""
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, size: int) -> tuple[bytes, int]:
        """`size` bytes from `offset`, fewer at the end of the file, and the current size of the file. UserError if it
        cannot be read."""
        with self._lock:
            try:
                descriptor = self._get(path).fileno()
                return read_fully(descriptor, offset, size), os.fstat(descriptor).st_size
            except OSError as error:
                raise UserError(
                    f"The token file {path} cannot be read ({error.strerror}); check that it is there and may be read."
                ) from error

    @property
    def count(self) -> int:
        """How many files are open."""
        return len(self._files)

    def _get(self, path: Path) -> BinaryIO:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= self._limit:
            self._files.popitem(last=False)[1].close()
        file = self._open_new(path)
        status = os.fstat(file.fileno())
        if self._identities.setdefault(path, (status.st_dev, status.st_ino)) != (status.st_dev, status.st_ino):
            file.close()
            raise UserError(f"The token file {path} was replaced by another while it was in use; start again.")
        self._files[path] = file
        return file

    def _open_new(self, path: Path) -> BinaryIO:
        """The file. If the process may open no more files, closes one of these and lowers the limit."""
        while True:
            try:
                return open_file(path)
            except TooManyOpenFiles:
                if not self._files:
                    raise
                self._files.popitem(last=False)[1].close()
                self._limit = max(1, len(self._files))


def read_fully(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, fewer at the end of the file. One `pread` may return less than requested."""
    data = os.pread(descriptor, size, offset)
    if len(data) in (0, size):
        return data
    parts = [data]
    while size > (have := sum(map(len, parts))) and (more := os.pread(descriptor, size - have, offset + have)):
        parts.append(more)
    return b"".join(parts)
