"""The server of the workbench: one model at a time, in threads of this program, until the app is closed."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from llm.errors import UserError
from llm.memory import check_memory_for_torch
from workbench.chat.weights import LiveModels
from workbench.serve.server import DEFAULT_PORT, HttpServer, PortInUse
from workbench.terminal import write_log

GRACE_SECONDS = 5
"""How long closing the app waits for the answers that are being generated."""


class ServeService:
    """Starts and stops a server of one model. `on_change` is called from its thread when the state changes."""

    def __init__(self, home: Path, training: LiveModels) -> None:
        self.on_change: Callable[[], object] = lambda: None
        self.reference = ""
        """The model that is served, or is being loaded; "" for none."""
        self.problem = ""
        """Why the last server could not be started, or ended."""
        self.server: HttpServer | None = None
        """Set while requests are answered."""
        self._home, self._training = home, training
        self._thread: threading.Thread | None = None

    def start(self, reference: str) -> None:
        """Serve `reference` instead of what is served now. Returns at once."""
        self.stop()
        self.reference, self.problem = reference, ""
        self._thread = threading.Thread(target=self._run, args=(reference, self._thread), name="http", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 0.0) -> None:
        """End the server, and wait `timeout` seconds for it."""
        self.reference = ""
        if self.server is not None:
            self.server.stop()
        if self._thread is not None and timeout:
            self._thread.join(timeout)

    def _run(self, reference: str, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # it has the port
        if self.reference != reference:
            return
        try:
            check_memory_for_torch()
            server = self._open(reference)
        except UserError as error:
            self._end(reference, str(error))
            return
        except Exception as error:  # noqa: BLE001 - the end of a thread: the error must reach the person, not vanish
            write_log(traceback.format_exc())
            self._end(reference, f"{reference} could not be served ({type(error).__name__}: {error}).")
            return
        if self.reference == reference:
            self.server = server
            self.on_change()
        else:
            server.stop()
        server.run()
        self.server = None
        self._end(reference, "")

    def _open(self, reference: str) -> HttpServer:
        """A server on the usual port, or on a free one where another program has that."""
        for port in (DEFAULT_PORT, 0):
            try:
                return HttpServer(
                    self._home,
                    reference,
                    training=self._training,
                    port=port,
                    one_thread=True,
                    grace_seconds=GRACE_SECONDS,
                )
            except PortInUse:
                if port == 0:
                    raise
        raise AssertionError("the loop returns or raises")

    def _end(self, reference: str, problem: str) -> None:
        if self.reference == reference:
            self.reference, self.problem = "", problem
        self.on_change()
