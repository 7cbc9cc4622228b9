"""Keeping the screen for the app alone, and giving the terminal back as it was.

Libraries, subprocesses and old logging handlers write to file descriptors 1 and 2, past everything Python can capture.
So while the app runs, it draws through private copies of the terminal and descriptors 1 and 2 lead to a log file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from llm.errors import UserError

NOT_DRAWN_ON = {"dumb", "unknown"}
GIVE_BACK = (
    b"\x1b[?2004l\x1b[?7h\x1b[?2048l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # pastes, wrapping, mouse
    b"\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l"  # keys, the other screen, the cursor, focus
)


def what_is_missing() -> str:
    """Why there can be no screens here, as a sentence; "" where there can."""
    if not (os.isatty(0) and os.isatty(1)):
        problem = "llm-workbench needs a terminal for its screens, and this is none"
    elif os.environ.get("TERM", "").lower() in NOT_DRAWN_ON:
        problem = f"llm-workbench needs a terminal that can be drawn on, and TERM={os.environ['TERM']} says it cannot"
    else:
        return ""
    return f"{problem}; use a subcommand instead (llm-workbench --help lists them)."


def log_for(home: Path) -> Path:
    """The file for what libraries print and for faults of our own: `<home>/workbench.log` or, so that one can look
    around in a home that refuses it, one in the temporary directory."""
    log = home / "workbench.log"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{home} cannot be made ({error.strerror}); choose another place with --home.") from error
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        try:
            descriptor, name = tempfile.mkstemp(prefix="llm-workbench-", suffix=".log")
        except OSError as error:
            raise UserError(
                f"neither {log} nor a file in the temporary directory can be written ({error.strerror}); "
                "make room, or allow writing to one of them."
            ) from error
        log = Path(name)
    os.close(descriptor)
    return log


@contextmanager
def terminal_kept_for_app(log: Path) -> Iterator[None]:
    """Until the block ends, only what writes to `sys.__stdout__` and `sys.__stderr__` reaches the terminal; everything
    sent to descriptors 1 and 2 is appended to `log`.

    Starts multiprocessing's resource tracker too: later, inside the app, it could not be started any more, because the
    app's stand-in for stderr has no descriptor to hand to a child.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    streams: Any = sys  # typeshed calls these two final; replacing them is what they are for here
    originals = streams.__stdout__, streams.__stderr__
    terminals = [_writer(kept[1]), _writer(kept[1])]
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        streams.__stdout__, streams.__stderr__ = terminals
        resource_tracker.ensure_running()
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        streams.__stdout__, streams.__stderr__ = originals
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(sink)
        for stream in terminals:
            _close_quietly(stream)


def abandon_terminal() -> None:
    """The terminal is gone: from now on what is drawn goes nowhere, and nothing is ever typed.

    Input comes from a pipe that stays open, since at the end of a file the app would read again and again. There is
    one NUL in it (no key at all), for the thread that was told the lost terminal could be read and is about to.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    silence, kept_open = os.pipe()
    os.write(kept_open, b"\0")
    os.dup2(silence, 0)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def give_terminal_back(attributes: list[Any]) -> None:
    """Restore the terminal in place of an app that does not come to it. `attributes` are those of `termios` from before
    it started. What the app draws afterwards goes nowhere."""
    if sys.__stdout__ is None:
        return
    drawn_on = sys.__stdout__.fileno()
    terminal = os.dup(drawn_on)
    os.dup2(os.open(os.devnull, os.O_WRONLY), drawn_on)
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    os.write(terminal, GIVE_BACK)


def write_log(text: str) -> None:
    """Add to what collects in the log: straight to descriptor 2, since the app keeps Python's own stderr for itself."""
    os.write(2, text.encode("utf-8", "backslashreplace"))


def _writer(fd: int) -> TextIOWrapper:
    """A text stream on a copy of `fd` that only we know."""
    return open(os.dup(fd), "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: PTH123


def _close_quietly(stream: TextIOWrapper) -> None:
    """Close a stream whose terminal may be gone."""
    try:
        stream.close()
    except OSError as gone:
        print(f"The terminal was gone before the app was: {gone}", file=sys.stderr)
