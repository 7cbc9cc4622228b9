"""The terminal driver: pasted text is never read as keys, and a lost terminal is not an error."""

from __future__ import annotations

import os
import selectors
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Any, cast

from textual._xterm_parser import XTermParser
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

BEGIN, END = "\x1b[200~", "\x1b[201~"
"""The sequences that a terminal sends before and after pasted text."""
PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\r\t"}
"""Control characters below U+0020 and their visible replacements, such as ␛ for escape."""
READ_BYTES = 4096
WAIT_SECONDS = 0.1


class PasteFilter:
    """Replaces control characters in pasted text by visible ones. Keys pass unchanged and at once."""

    def __init__(self) -> None:
        self._inside = False
        self._partial = ""  # the end of the input, if it may be the start of BEGIN or END

    def feed(self, data: str) -> str:
        """The filtered form of the next input. A possible start of END is returned with the next piece."""
        text = self._partial + data
        passed = 0 if self._inside else len(self._partial)  # characters of `text` that were returned before
        parts = []
        while (place := text.find(self._next)) >= 0:
            end = place + len(self._next)
            parts.append(text[:place].translate(PICTURES) + END if self._inside else text[passed:end])
            text, passed, self._inside = text[end:], 0, not self._inside
        self._partial = partial_marker(text, self._next)
        whole = text[: len(text) - len(self._partial)]
        parts.append(whole.translate(PICTURES) if self._inside else text[passed:])
        return "".join(parts)

    @property
    def _next(self) -> str:
        return END if self._inside else BEGIN


def partial_marker(text: str, marker: str) -> str:
    """The longest proper prefix of `marker` that `text` ends with."""
    return next((marker[:n] for n in range(len(marker) - 1, 0, -1) if text.endswith(marker[:n])), "")


class PasteSafeParser(XTermParser):
    """Textual's parser, but escape sequences in pasted text are not read as keys."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._filter = PasteFilter()

    def feed(self, data: str) -> Iterable[Message]:
        """The events in the next input; "" ends the input."""
        filtered = self._filter.feed(data)
        return super().feed(filtered) if filtered or not data else ()


class ForgivingFile:
    """A file of the terminal that ignores errors. Textual's writer thread would end at the first error, and the app
    would wait for it forever."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text)

    def flush(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.flush()

    def fileno(self) -> int:
        return -1 if self._file is None else self._file.fileno()


class TerminalDriver(LinuxDriver):
    """Textual's driver with that parser, safe when the terminal is lost: `on_lost` is then called from the input
    thread."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self.on_lost: Callable[[], object] = lambda: None
        self.is_lost: Callable[[], bool] = lambda: False
        """Whether the terminal is known to be lost."""
        self._file = cast(Any, ForgivingFile(self._file))

    def _sigcont_application(self, *_: object) -> None:
        """Resume after SIGCONT, unless the terminal is lost: the kernel sends SIGCONT with SIGHUP."""
        if not self.is_lost():
            super()._sigcont_application()

    def run_input_thread(self) -> None:
        """Wait for input and post its events. Textual's own method, with another parser."""
        parser, decode = PasteSafeParser(self._debug), getincrementaldecoder("utf-8")().decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(WAIT_SECONDS):
                    data = self._read()
                    if not data:
                        self.on_lost()
                        return
                    for event in parser.feed(text) if (text := decode(data)) else ():
                        self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)

    def _read(self) -> bytes:
        """The input; empty if the terminal is lost."""
        try:
            return os.read(self.fileno, READ_BYTES)
        except OSError:
            return b""
