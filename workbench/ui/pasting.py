"""The terminal driver: pasted text is only text, and a lost terminal is no error."""

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
"""What a terminal sends before and after what is pasted."""
PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\r\t"}
"""Every other control below U+0020, and what stands for it: ␛ for escape."""
READ_BYTES = 4096
WAIT_SECONDS = 0.1


class PasteFilter:
    """Replaces the controls in what is pasted by their pictures. Keys pass as they are, and at once."""

    def __init__(self) -> None:
        self._inside = False
        self._begun = ""  # the end of what came last, where it may be the start of the next BEGIN or END

    def feed(self, data: str) -> str:
        """The next piece of what the terminal sends. What may be the start of an END comes with the next piece."""
        text = self._begun + data
        passed = 0 if self._inside else len(self._begun)  # characters of `text` that were returned before
        parts = []
        while (place := text.find(self._next)) >= 0:
            end = place + len(self._next)
            parts.append(text[:place].translate(PICTURES) + END if self._inside else text[passed:end])
            text, passed, self._inside = text[end:], 0, not self._inside
        self._begun = begun(text, self._next)
        whole = text[: len(text) - len(self._begun)]
        parts.append(whole.translate(PICTURES) if self._inside else text[passed:])
        return "".join(parts)

    @property
    def _next(self) -> str:
        return END if self._inside else BEGIN


def begun(text: str, marker: str) -> str:
    """The longest beginning of `marker`, short of all of it, that `text` ends with."""
    return next((marker[:n] for n in range(len(marker) - 1, 0, -1) if text.endswith(marker[:n])), "")


class PasteSafeParser(XTermParser):
    """Textual's parser, which would take an escape sequence within a paste for keys."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._filter = PasteFilter()

    def feed(self, data: str) -> Iterable[Message]:
        """The events in the next piece of what the terminal sends; "" is the end of it."""
        filtered = self._filter.feed(data)
        return super().feed(filtered) if filtered or not data else ()


class ForgivingFile:
    """A terminal to write to, and nothing where it is gone. Textual's thread that writes would end at the first error,
    and the app would wait for it for ever."""

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
    """Textual's driver with that parser, and without its trust in a terminal that may be gone: `on_lost` is called from
    the thread that reads keys, once there are no more."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self.on_lost: Callable[[], object] = lambda: None
        self.is_lost: Callable[[], bool] = lambda: False
        """Whether the terminal is known to be gone."""
        self._file = cast(Any, ForgivingFile(self._file))

    def _sigcont_application(self, *_: object) -> None:
        """Take the terminal over again, unless it is gone: the kernel sends SIGCONT with SIGHUP."""
        if not self.is_lost():
            super()._sigcont_application()

    def run_input_thread(self) -> None:
        """Wait for input and pass on its events. As Textual's own, which leaves no place for another parser."""
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
        """What was typed; nothing where the terminal is gone."""
        try:
            return os.read(self.fileno, READ_BYTES)
        except OSError:
            return b""
