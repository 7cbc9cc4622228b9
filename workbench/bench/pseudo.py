"""The workbench as a child process on a pseudo-terminal."""

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
    """`llm-workbench --home HOME` on a terminal of this size. A context manager, which kills the process on exit."""

    def __init__(self, home: Path, columns: int = 80, lines: int = 24) -> None:
        self.started = time.perf_counter()
        self.fd, child_fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "--home", str(home)],
            stdin=child_fd,
            stdout=child_fd,
            stderr=child_fd,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(child_fd)

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

    def wait_for(self, text: bytes, seconds: float = 60.0) -> float:
        """Read until `text` is written. Returns the seconds since the start of the process."""
        self._read_until(text, seconds)
        return time.perf_counter() - self.started

    def response_time(self, keys: bytes, text: bytes, seconds: float = 10.0) -> float:
        """Press `keys` once the output is quiet. Returns the seconds until `text` is written."""
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
