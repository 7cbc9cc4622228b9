"""The workbench as a child of this process, on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil


class PseudoTerminal:
    """`llm-workbench --home HOME` on a terminal of this size; a context manager that ends it."""

    def __init__(self, home: Path, columns: int = 80, lines: int = 24) -> None:
        self.begun = time.perf_counter()
        self.fd, inside = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "--home", str(home)],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(inside)

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)

    def read(self, seconds: float) -> bytes:
        """The next output, within at most `seconds`."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        return os.read(self.fd, 1 << 16) if ready else b""

    def until(self, text: bytes, seconds: float = 60.0) -> float:
        """Read until `text` is written; returns the seconds since the start."""
        self._read_until(text, seconds)
        return time.perf_counter() - self.begun

    def answer(self, keys: bytes, text: bytes, seconds: float = 10.0) -> float:
        """Press `keys` once the output is quiet; returns the seconds until `text` is written."""
        self.drain()
        pressed = time.perf_counter()
        self.press(keys)
        self._read_until(text, seconds)
        return time.perf_counter() - pressed

    def _read_until(self, text: bytes, seconds: float) -> None:
        written = b""
        limit = time.perf_counter() + seconds
        while text not in written:
            if time.perf_counter() > limit:
                raise TimeoutError(f"the workbench did not write {text!r} within {seconds:g} s")
            written = written[-200:] + self.read(0.5)

    def drain(self, quiet: float = 0.02) -> None:
        """Read until there is no output for `quiet` seconds."""
        while self.read(quiet):
            pass

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def screen_seconds(self) -> float:
        """CPU seconds of the main thread, which draws."""
        threads = psutil.Process(self.process.pid).threads()
        main = next(thread for thread in threads if thread.id == self.process.pid)
        return float(main.user_time + main.system_time)
