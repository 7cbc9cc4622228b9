"""Quitting while a run trains: the training is saved, or continues in a background process, before the app exits."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextvars import copy_context

from llm.run import Run
from workbench.base_app import BaseApp
from workbench.signals import SignalListener
from workbench.text import clean
from workbench.train.queue import RunQueue
from workbench.train.service import TrainingService
from workbench.ui.dialogs import QuitDialog, Waiting

SECONDS_BETWEEN_SAVES = 10.0  # between the attempts to save after the terminal is lost
SECONDS_TO_ABANDON = 5.0
"""How long quitting waits before it can be cut short: one micro-batch of a large model can take many minutes."""
POLL_SECONDS = 0.1
DETACHED, CLOSED = "training continues in a background process", "the workbench was closed"


class Shutdown:
    """Stops the training of this program, and exits the app. All methods are called in the app's event loop."""

    def __init__(self, app: BaseApp, training: TrainingService, queue: RunQueue) -> None:
        self.app = app
        self.training = training
        self.queue = queue
        self.is_quitting = False
        self.is_handing_over = False
        self._is_terminated = False
        self._may_abandon = False

    async def ask(self) -> None:
        """Quit; asks first if a run trains in this program. Quits at once where the training takes long to stop."""
        if self.is_quitting and self._may_abandon:
            self.training.is_abandoned = True
            self.app.exit(0)
        if self.is_quitting or isinstance(self.app.screen, QuitDialog):
            return
        name = self.training.active
        if name is None:
            self.app.exit(0)
        else:
            dialog = QuitDialog(name, len(self.queue.names()), clean(self.training.unsaved))
            await self.app.push_screen(dialog, self._take_answer)

    def _take_answer(self, answer: str | None) -> None:
        if answer == "discard":
            self.training.request_stop("the workbench was closed without saving", save=False)
        if answer in ("save", "detach", "discard"):
            self.quit(detach=answer == "detach", status=0)

    def hand_over(self) -> None:
        """Save the training of this program and continue it in a background process."""
        self.app.run_worker(self._hand_over(), group="hand over")

    async def _hand_over(self) -> None:
        name = self.training.active
        if name is not None:
            self.is_handing_over = True
            try:
                if refusal := await self._stop_saved(name, DETACHED):
                    self.app.show_error(refusal, title=name)
                else:
                    self._continue_in_process(name)
            finally:
                self.is_handing_over = False

    async def _stop_saved(
        self, name: str, reason: str, report: Callable[[float], object] = lambda seconds: None
    ) -> str:
        """Stop the training of this program and wait until it ends; returns why it continues, where it could not be
        saved. `report` gets the seconds of waiting so far."""
        request = self.training.request_stop(reason, must_save=True)
        seconds = 0.0
        while self.training.active == name:
            if refusal := self.training.refusal(request):
                return refusal
            await asyncio.sleep(POLL_SECONDS)
            seconds += POLL_SECONDS
            report(seconds)
        return ""

    def _continue_in_process(self, name: str) -> None:
        """Continue a run that was stopped and saved here in a background process."""
        if not self.training.can_detach:
            return  # it has finished or failed meanwhile, which has been shown
        try:
            self.training.begin_process(Run(self.training.home / "runs" / name))
        except OSError as error:
            self.app.show_error(
                f"{name} is saved, but no process could be started ({error.strerror}); resume it later."
            )

    def obey(self, signals: SignalListener) -> None:
        """Save and quit after SIGTERM; after SIGHUP, which means the terminal is gone, detach and quit."""
        context = copy_context()

        def handle(number: signal.Signals) -> None:
            if number == signal.SIGTERM:
                context.run(self._terminate)
            else:
                context.run(self.quit, detach=True, status=128 + number, retry=True)

        signals.connect(asyncio.get_running_loop(), handle)
        self.app.report_lost_terminal(signals.lose_terminal, lambda: not signals.has_terminal)

    def _terminate(self) -> None:
        """Save and quit, also if it cannot be saved."""
        self._is_terminated = True
        self.training.request_stop(CLOSED)
        self.quit(detach=False, status=128 + signal.SIGTERM)

    def quit(self, *, detach: bool, status: int, retry: bool = False) -> None:
        """Stop the training and exit with `status`. Where it cannot be saved, the app stays open, or with `retry` tries
        again until it can."""
        if not self.is_quitting:
            self.is_quitting = True
            self.app.run_worker(self._quit(detach, status, retry), group="quit")

    async def _quit(self, detach: bool, status: int, retry: bool) -> None:
        name = self.training.active
        is_hangup = status == 128 + signal.SIGHUP  # then `SignalListener` continues a run that is still being prepared
        if name is not None and (self.training.has_work_to_save or (detach and not is_hangup)):
            waiting = Waiting(f"Saving {name}…")
            await self.app.push_screen(waiting)

            def report(seconds: float) -> None:
                self._may_abandon = seconds >= SECONDS_TO_ABANDON
                how = "\n\nPress ^q to quit now and lose the steps since the last checkpoint." * self._may_abandon
                waiting.say(f"Saving {name}… {seconds:.0f}s{how}")

            while refusal := await self._stop_saved(name, DETACHED if detach else CLOSED, report):
                if not retry:
                    self.is_quitting = False
                    waiting.dismiss()
                    self.app.show_error(refusal, title=name)
                    return
                await self._wait_to_retry(name)
            if detach and not self._is_terminated:
                self._continue_in_process(name)
        self.app.exit(status, return_code=status)

    async def _wait_to_retry(self, name: str) -> None:
        """Wait some seconds, or until the training has ended."""
        waited = 0.0
        while waited < SECONDS_BETWEEN_SAVES and self.training.active == name:
            await asyncio.sleep(POLL_SECONDS)
            waited += POLL_SECONDS
