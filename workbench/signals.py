"""Ending the program after a signal or the loss of the terminal, also where the event loop is blocked.

The interpreter writes signals to a pipe, and a thread reads them there. It asks the app to quit, and ends the program
if the app does not: because the loop is blocked, or because it waits for a thread that has nothing to save.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from llm.run import Run
from workbench.terminal import abandon_terminal, write_log
from workbench.train.service import TrainingService

GRACE_SECONDS = 3.0
"""How long the app may take to quit once there is nothing to save, and how long its loop may be blocked."""
SAVE_TIMEOUT = 600.0
"""How long saving may take where the loop is blocked, in seconds."""
POLL_SECONDS = 0.1


class SignalListener:
    """The thread that reads signals. All methods may be called from any thread."""

    def __init__(self, training: TrainingService, restore_terminal: Callable[[], None]) -> None:
        """`restore_terminal` restores the terminal without the loop."""
        self.training = training
        self.received: signal.Signals | None = None
        """The signal, or SIGHUP where the terminal is gone."""
        self.has_terminal = True
        """Whether the app has the terminal."""
        self._restore_terminal = restore_terminal
        self._active = ""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handle: Callable[[signal.Signals], object] = lambda number: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answered = 0.0
        self._ending = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM and SIGHUP until the block ends. Call it in the main thread."""

        def note(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:  # before SIGCONT, which is sent with it, is handled
                self.has_terminal = False

        handlers = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGHUP)}
        wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def connect(self, loop: asyncio.AbstractEventLoop, handle: Callable[[signal.Signals], object]) -> None:
        """Call `handle(signal)` in the thread of `loop` after a signal."""
        self._loop, self._handle = loop, handle

    def lose_terminal(self) -> None:
        """Quit as after SIGHUP, since the terminal is gone."""
        self.has_terminal = False
        os.write(self._writer, bytes([signal.SIGHUP]))

    def _listen(self) -> None:
        while self.received is None:
            for number in os.read(self._reader, 64):
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self.received = signal.Signals(number)
                    break
        self._active = self.training.active or ""
        if self.received == signal.SIGHUP:
            self.has_terminal = False
            abandon_terminal()
        try:
            self._quit(self.received)
        except Exception as error:  # noqa: BLE001 - the program must end
            write_log(f"quitting after {self.received.name}: {error!r}\n")
        self.end(1 if self.training.has_work_to_save else 128 + self.received)

    def _quit(self, number: signal.Signals) -> None:
        """Ask the app to quit; return when its time is over, or when the training is saved without it."""
        began = self._answered = time.monotonic()
        self._call_in_loop(lambda: self._handle(number))
        while True:
            self._call_in_loop(self._note_answer)
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if self.training.has_work_to_save:
                began = now  # the app waits for it
                if now - self._answered > GRACE_SECONDS:
                    self.training.shutdown(SAVE_TIMEOUT)
                    return
            elif now - began > GRACE_SECONDS:
                return

    def _call_in_loop(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop, if there is one."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed
            self._loop = None

    def _note_answer(self) -> None:
        self._answered = time.monotonic()

    def end(self, status: int) -> NoReturn:
        """End the program at once: PyTorch aborts if its threads still run when the interpreter exits.

        After SIGHUP a run that could not be handed over, since it was being prepared or the loop was blocked,
        continues in a background process, which takes the lock after this program has ended.
        """
        self._ending.acquire()  # never released: one thread ends the program
        try:
            if self.has_terminal:
                restoring = threading.Thread(target=self._restore_terminal, daemon=True)
                restoring.start()
                restoring.join(1.0)  # a terminal may take nothing
            to_continue = self.training.active is not None or self.training.can_detach
            if self.received == signal.SIGHUP and to_continue and not self.training.has_process(self._active):
                self.training.begin_process(Run(self.training.home / "runs" / self._active))
        finally:
            os._exit(status)
