"""Ending when a signal or the loss of the terminal asks for it, whatever the event loop is doing.

The kernel's signals are written to a pipe by the interpreter itself, and a thread reads them there. It asks the app to
leave, and ends the program if the app does not: when the loop answers nothing, or when it waits for a thread that
nothing is to be saved of.
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
"""How long the app may take to leave once there is nothing to save, and how long its loop may answer nothing."""
PATIENCE_SECONDS = 600.0
"""How long a training may take to save where the loop answers nothing."""
LOOK_SECONDS = 0.1


class Leaving:
    """The thread, and what it needs to know of the app. All methods may be called from any thread."""

    def __init__(self, training: TrainingService, give_back: Callable[[], None]) -> None:
        """`give_back` restores the terminal without the loop."""
        self.training = training
        self.asked_by: signal.Signals | None = None
        """The signal that asked, or SIGHUP where the terminal was found to be gone."""
        self.has_terminal = True
        """Whether the terminal is there, and the app has it."""
        self._give_back = give_back
        self._active = ""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._ask: Callable[[signal.Signals], object] = lambda number: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answered = 0.0
        self._ending = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Until the block ends SIGTERM and SIGHUP are obeyed. To be used in the main thread."""

        def note(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:  # before SIGCONT, which comes along, is obeyed
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

    def tell(self, loop: asyncio.AbstractEventLoop, ask: Callable[[signal.Signals], object]) -> None:
        """Call `ask` in the thread of `loop` from now on, when a signal asks for the end."""
        self._loop, self._ask = loop, ask

    def lose_terminal(self) -> None:
        """Leave as after SIGHUP: the terminal turned out to be gone."""
        self.has_terminal = False
        os.write(self._writer, bytes([signal.SIGHUP]))

    def _listen(self) -> None:
        while self.asked_by is None:
            for number in os.read(self._reader, 64):
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self.asked_by = signal.Signals(number)
                    break
        self._active = self.training.active or ""
        if self.asked_by == signal.SIGHUP:
            self.has_terminal = False
            abandon_terminal()
        try:
            self._leave(self.asked_by)
        except Exception as error:  # noqa: BLE001 - the program must end
            write_log(f"leaving after {self.asked_by.name}: {error!r}\n")
        self.end(1 if self.training.must_be_waited_for else 128 + self.asked_by)

    def _leave(self, number: signal.Signals) -> None:
        """Ask the app, and return once it had its time or the training is saved without it."""
        began = self._answered = time.monotonic()
        self._call_in_loop(lambda: self._ask(number))
        while True:
            self._call_in_loop(self._note_answer)
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if self.training.must_be_waited_for:
                began = now  # the app waits for it
                if now - self._answered > GRACE_SECONDS:
                    self.training.shutdown(PATIENCE_SECONDS)
                    return
            elif now - began > GRACE_SECONDS:
                return

    def _call_in_loop(self, function: Callable[[], object]) -> None:
        """Have the loop call it, where there is one."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed
            self._loop = None

    def _note_answer(self) -> None:
        self._answered = time.monotonic()

    def end(self, status: int) -> NoReturn:
        """End the program at once; PyTorch aborts where its threads still run when the interpreter ends.

        After SIGHUP a run that has not been handed over, since it was being prepared or the app did not answer,
        continues in a process of its own, which asks for the lock only after this program is gone.
        """
        self._ending.acquire()  # never released: one thread ends the program
        try:
            if self.has_terminal:
                restoring = threading.Thread(target=self._give_back, daemon=True)
                restoring.start()
                restoring.join(1.0)  # a terminal may take nothing
            to_continue = self.training.active is not None or self.training.can_move
            if self.asked_by == signal.SIGHUP and to_continue and not self.training.has_process(self._active):
                self.training.begin_process(Run(self.training.home / "runs" / self._active))
        finally:
            os._exit(status)
