"""The app as a child of the test, on a pseudo-terminal that pyte reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte

from tests.forking import ForkedProgram, run_code

NOISE = "import os; os.write(1, b'NOISE ON STDOUT\\n'); os.write(2, b'NOISE ON STDERR\\n')"
START = (
    "import fcntl, pathlib, sys, termios, threading; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from workbench.app import run_app\n"
    f"threading.Timer(0.5, lambda: exec({NOISE!r})).start()\n"
    "sys.exit(run_app(pathlib.Path(sys.argv[1])))"
)
STYLES = re.compile(rb"\x1b\[([0-9;]*)m")
MIXED = re.compile(rb"[34]8;2;(\d+);(\d+);(\d+)")


class PseudoTerminal:
    """A program on a terminal of 80 by 24 until it is resized: the Python code `start` with the argument `home`.

    Forked from a process that has loaded torch, unless `forked` is false.
    """

    def __init__(
        self, home: Path, environment: Mapping[str, str] | None = None, start: str = START, forked: bool = True
    ) -> None:
        self.fd, inside = pty.openpty()
        self.set_size(80, 24)
        usual = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM")}
        settled = usual | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | dict(environment or {})
        self.process: ForkedProgram | subprocess.Popen[bytes]
        if forked:
            streams = (os.ttyname(inside),) * 3
            self.process = ForkedProgram(run_code, start, str(home), streams=streams, environment=settled)
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", start, str(home)],
                stdin=inside,
                stdout=inside,
                stderr=inside,
                start_new_session=True,
                env=settled,
            )
        os.close(inside)

    def set_size(self, columns: int, lines: int) -> None:
        """Resize, as a person does with the mouse: the kernel tells the app by SIGWINCH."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_bytes(self, seconds: float) -> bytes | None:
        """What the program writes within `seconds`; None once the terminal is closed."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return b""
        try:
            return os.read(self.fd, 1 << 16) or None
        except OSError:
            return None

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Terminal(PseudoTerminal):
    """The app with its home, and what its terminal shows."""

    def __init__(
        self, home: Path, environment: Mapping[str, str] | None = None, start: str = START, forked: bool = True
    ) -> None:
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        super().__init__(home, environment, start, forked)

    def set_size(self, columns: int, lines: int) -> None:
        super().set_size(columns, lines)
        self.screen.resize(lines, columns)

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what was written; False once the terminal is closed."""
        data = self.read_bytes(seconds)
        if data is None:
            return False
        self.output += data
        self.stream.feed(data)
        return True

    def until(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "\n".join(self.screen.display)
            assert self.read(), "the app has ended:\n" + self.output[-500:].decode(errors="replace")

    def until_shown(self, *texts: str) -> None:
        self.until(lambda: all(self.shows(text) for text in texts))

    def until_shown_after(self, keys: bytes, *texts: str) -> None:
        """Type `keys` about once a second until all of `texts` are shown, once what showed them before is gone."""
        self.until(lambda: not all(self.shows(text) for text in texts))
        typed = 0.0

        def shown() -> bool:
            nonlocal typed
            if all(self.shows(text) for text in texts):
                return True
            if time.monotonic() > typed + 1:
                self.type(keys)
                typed = time.monotonic()
            return False

        self.until(shown)

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.screen.display)

    def style_codes(self) -> set[tuple[int, ...]]:
        """The numbers of each escape sequence that was written to choose colors and styles."""
        codes = {match[1] for match in STYLES.finditer(self.output)}
        return {tuple(int(part or 0) for part in code.split(b";")) for code in codes}

    def mixed_colors(self) -> set[tuple[int, ...]]:
        """The colors that were written as red, green and blue."""
        return {tuple(int(part) for part in match.groups()) for match in MIXED.finditer(self.output)}

    def exit_status(self, seconds: float = 120.0) -> int:
        """Read to the end, and the exit status."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < limit, "the app did not end:\n" + "\n".join(self.screen.display)
            self.read()
        while self.read(0):  # what it wrote last
            pass
        return self.process.returncode
