"""Starting and stopping the server: the socket, the scheduler's thread, uvicorn."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import WeightFormat
from llm.errors import UserError, WrongUse, reason_of
from workbench.chat.weights import LiveModels

if TYPE_CHECKING:
    import uvicorn

    from workbench.serve.parse import ModelInfo
    from workbench.serve.scheduler import Scheduler
    from workbench.serve.weights import Source

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
DEFAULT_REQUESTS = 256
MAX_CONNECTIONS = 1024
MISSING = "serving needs starlette and uvicorn; install them: pip install 'llm-workbench[serve]'"


class PortInUse(WrongUse):
    """Another program listens on the port."""


class NoTraining:
    """No run trains in this process."""

    def live_model(self, run_name: str) -> None:
        return None


class HttpServer:
    """A server of one model, listening since it was created. `run` answers requests until `stop`."""

    def __init__(
        self,
        home: Path,
        reference: str,
        *,
        training: LiveModels | None = None,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        token: str = "",
        device: str = "auto",
        weights: WeightFormat | None = None,
        max_requests: int = DEFAULT_REQUESTS,
        one_thread: bool = False,
        grace_seconds: int | None = None,
        on_damage: Callable[[str], object] = lambda message: None,
    ) -> None:
        """Load the model and listen. Port 0 is any free one. On another address than the loopback, a `token` is made up
        where none is given. `weights`: None for the run's `decode.weights`. `grace_seconds`: how long a stop waits for
        answers, None for as long as they take. `on_damage`: as in `find_checkpoint`. Raises UserError."""
        check_packages()
        from workbench.serve.scheduler import Scheduler
        from workbench.serve.weights import open_source

        is_local = is_loopback(host)
        self.token = token if token or is_local else secrets.token_urlsafe(24)
        self._listener = listen(host, port)
        try:
            source = open_source(home, reference, training or NoTraining(), device, weights, on_damage)
            self._scheduler = Scheduler(source.load, max_open=max_requests, one_thread=one_thread)
        except BaseException:
            self._listener.close()
            raise
        self.name, self.model, self.is_live = source.run.name, reference, source.is_live
        self.has_chat_template = self._scheduler.tokenizer.chat_template is not None
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{self._listener.getsockname()[1]}/v1"
        info = model_info(source, reference, self._scheduler)
        self._server = uvicorn_server(info, self._scheduler, self.token, is_local, grace_seconds)

    @property
    def open_requests(self) -> int:
        """The number of requests that run or wait."""
        return self._scheduler.open_requests

    def run(self) -> None:
        """Answer requests until `stop`, or in the main thread until SIGINT or SIGTERM, which is then raised again.

        The answers that are being generated are finished first; a second SIGINT ends at once.
        """
        self._scheduler.start()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._scheduler.stop()

    def stop(self) -> None:
        """Ask `run` to end. Safe in any thread."""
        self._server.should_exit = True


def check_packages() -> None:
    """UserError where the packages of the extra are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{MISSING} ({error}).") from error


def uvicorn_server(
    model: ModelInfo, scheduler: Scheduler, token: str, local_only: bool, grace_seconds: int | None
) -> uvicorn.Server:
    """The ASGI server of the application, which prints nothing."""
    import uvicorn

    from workbench.serve.web import create_app

    config = uvicorn.Config(
        create_app(model, scheduler, token=token, local_only=local_only),
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=grace_seconds,
    )
    return uvicorn.Server(config)


def model_info(source: Source, reference: str, scheduler: Scheduler) -> ModelInfo:
    """What the requests are checked against."""
    from llm.engine import prompt_ids
    from llm.tokenizer.chat_template import chat_template
    from workbench.serve.chat_prompt import encode_chat
    from workbench.serve.parse import ModelInfo

    config, tokenizer = source.run.config(), scheduler.tokenizer
    template = chat_template(tokenizer, config.data.corpus)
    return ModelInfo(
        name=reference,
        aliases=frozenset((source.run.name,)),
        context=scheduler.context,
        decode=config.decode,
        encode=lambda prompt: prompt_ids(tokenizer, prompt, separator_first=config.decode.separator_first),
        encode_chat=lambda messages: encode_chat(tokenizer, template, messages),
        chat_stops=(template.stop,) if template is not None and template.stop else (),
    )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises WrongUse."""
    if not 0 <= port < 1 << 16:
        raise WrongUse(f"--port must be a number from 0 to 65535, not {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long, or not UTF-8 text
        raise WrongUse(
            f"there is no address {host} ({reason_of(error)}); give one of this machine with --host."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            advice = "choose another with --port, or any free one with --port 0."
            raise PortInUse(f"port {port} of {host} is in use by another program; {advice}") from error
        raise WrongUse(f"{host} port {port} cannot be opened ({error.strerror}); choose others.") from error
    return listener
