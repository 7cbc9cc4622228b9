"""The app in a pseudo-terminal: other output stays off the screen, signals save, a lost terminal loses nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from llm.config import from_mapping, to_mapping, to_toml
from llm.events import Finished, Started
from llm.run import Run
from tests.conftest import tiny_config

NOISE = "import os; os.write(1, b'NOISE ON STDOUT\\n'); os.write(2, b'NOISE ON STDERR\\n')"
START = (
    "import fcntl, pathlib, sys, termios, threading; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from workbench.app import run_app\n"
    f"threading.Timer(0.5, lambda: exec({NOISE!r})).start()\n"
    "sys.exit(run_app(pathlib.Path(sys.argv[1])))"
)


class Terminal:
    """The app as a child of this process, on a terminal of 80 by 24."""

    def __init__(self, home: Path) -> None:
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.fd, inside = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", START, str(home)],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
        )
        os.close(inside)

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what was written; False once the terminal is closed."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:
            return False
        self.output += data
        self.stream.feed(data)
        return bool(data)

    def until(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "\n".join(self.screen.display)
            assert self.read(), "the app has ended:\n" + self.output[-500:].decode(errors="replace")

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.screen.display)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def exit_status(self, seconds: float = 120.0) -> int:
        """Read to the end, and the exit status."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < limit, "the app did not end:\n" + "\n".join(self.screen.display)
            self.read()
        while self.read(0):  # what it wrote last
            pass
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def terminal(home: Path, corpus: Path) -> Iterator[Terminal]:
    """A home whose last preset is a tiny model that trains for long."""
    long = to_mapping(tiny_config(corpus))
    long["train"]["steps"] = 1_000_000
    (home / "presets").mkdir()
    (home / "presets" / "zz-tiny.toml").write_text(to_toml(from_mapping(long)), encoding="utf-8")
    terminal = Terminal(home)
    yield terminal
    terminal.close()


def train_tiny(terminal: Terminal, home: Path) -> Run:
    """Start the last preset, and wait for its first steps."""
    terminal.until(lambda: terminal.shows("quickstart"))
    terminal.type(b"G")
    terminal.until(lambda: terminal.shows("A model small enough"))
    terminal.type(b"\r")
    terminal.until(lambda: terminal.shows("tokens/s"))
    return Run.open(home, "zz-tiny-1")


def test_other_output_stays_off_the_screen_and_sigterm_saves(terminal: Terminal, home: Path) -> None:
    run = train_tiny(terminal, home)
    terminal.process.terminate()
    assert terminal.exit_status() == 128 + signal.SIGTERM
    last = list(run.events())[-1]
    assert isinstance(last, Finished)
    assert last.status == "stopped"
    assert run.checkpoint("last").step == last.step
    assert b"\x1b[?1049l" in terminal.output, "the terminal was not given back"
    assert b"NOISE" not in terminal.output
    log = (home / "workbench.log").read_text()
    assert "NOISE ON STDOUT" in log
    assert "NOISE ON STDERR" in log


def test_a_lost_terminal_loses_nothing(terminal: Terminal, home: Path) -> None:
    run = train_tiny(terminal, home)
    os.close(terminal.fd)  # the kernel sends SIGHUP, as when a window is closed
    assert terminal.process.wait(120) == 128 + signal.SIGHUP
    limit = time.monotonic() + 120
    while sum(isinstance(event, Started) for event in run.events()) < 2:
        assert time.monotonic() < limit, "nobody carried on"
        time.sleep(0.1)
    begun = [event for event in run.events() if isinstance(event, Started)]
    assert begun[1].pid != begun[0].pid
    assert begun[1].step > 0
    run.send("stop")
    while run.holder() is not None:
        assert time.monotonic() < limit + 40, "the process did not obey"
        time.sleep(0.1)
    assert isinstance(list(run.events())[-1], Finished)
