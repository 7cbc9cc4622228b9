"""Reserve the terminal for the app, and restore it.

Libraries, subprocesses and logging handlers write to file descriptors 1 and 2, which Python cannot capture. While the
app runs, it draws through private copies of the terminal, and descriptors 1 and 2 lead to a log file.
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

DUMB_TERMINALS = {"dumb", "unknown"}
COLOR_SYSTEMS = ("auto", "standard", "256", "truecolor", "windows")
"""The values of $TEXTUAL_COLOR_SYSTEM; with another, the app ends in a KeyError."""
RESTORE_SEQUENCE = (
    b"\x1b[?2004l\x1b[?7h\x1b[?2048l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # pastes, wrapping, mouse
    b"\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l"  # keys, the other screen, the cursor, focus
)


def why_unusable() -> str:
    """Why the app cannot run in this terminal; "" where it can."""
    if not (os.isatty(0) and os.isatty(1)):
        problem = "llm-workbench needs a terminal, but input or output is redirected"
    elif os.environ.get("TERM", "").lower() in DUMB_TERMINALS:
        problem = f"llm-workbench cannot draw on this terminal (TERM={os.environ['TERM']})"
    elif (colors := os.environ.get("TEXTUAL_COLOR_SYSTEM", "auto")) not in COLOR_SYSTEMS:
        return f"TEXTUAL_COLOR_SYSTEM is {colors!r}; set it to {', '.join(COLOR_SYSTEMS[:-1])}, or unset it."
    else:
        return ""
    return f"{problem}; use a command instead (see llm-workbench --help)."


def log_for(home: Path) -> Path:
    """The log file for output of libraries and our own errors: `<home>/workbench.log`, or a temporary file where the
    home is read-only."""
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
                "free some space, or allow writing to one of them."
            ) from error
        log = Path(name)
    os.close(descriptor)
    return log


@contextmanager
def reserve_terminal(log: Path) -> Iterator[None]:
    """A context in which only `sys.__stdout__` and `sys.__stderr__` reach the terminal; output to descriptors 1 and 2
    is appended to `log`.

    Also starts multiprocessing's resource tracker, which cannot be started inside the app: the app's replacement of
    stderr has no descriptor for a child process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    streams: Any = sys  # typeshed declares these two as final
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
    """Disconnect from a terminal that is gone: output goes to the null device, input from a silent pipe.

    The pipe stays open, since the app would read an end of file again and again. It holds one NUL, which is no key, for
    a thread that is about to read.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    silence, kept_open = os.pipe()
    os.write(kept_open, b"\0")
    os.dup2(silence, 0)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def restore_terminal(attributes: list[Any]) -> None:
    """Restore the terminal for an app that cannot do it itself. `attributes`: those of `termios` before the app
    started. Later output of the app goes to the null device."""
    if sys.__stdout__ is None:
        return
    drawn_on = sys.__stdout__.fileno()
    terminal = os.dup(drawn_on)
    os.dup2(os.open(os.devnull, os.O_WRONLY), drawn_on)
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    os.write(terminal, RESTORE_SEQUENCE)


def write_log(text: str) -> None:
    """Append to the log through descriptor 2, since the app replaces Python's stderr."""
    os.write(2, text.encode("utf-8", "backslashreplace"))


def _writer(fd: int) -> TextIOWrapper:
    """A text stream on a private copy of `fd`."""
    return open(os.dup(fd), "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: PTH123


def _close_quietly(stream: TextIOWrapper) -> None:
    """Close a stream whose terminal may be gone."""
    try:
        stream.close()
    except OSError as gone:
        print(f"The terminal closed before the app: {gone}", file=sys.stderr)
