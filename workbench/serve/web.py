"""The routes: /v1/models, /v1/completions and /v1/chat/completions, with the errors of the OpenAI API."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm.engine.continuous import NewToken
from workbench.serve.errors import ApiError, to_api_error
from workbench.serve.parse import MAX_BODY_BYTES, ModelInfo, parse_call
from workbench.serve.respond import Answer, event
from workbench.serve.scheduler import Job, Scheduler

BODY_SECONDS = 60.0
DISCARDED_BYTES = 256 << 20
"""Of a body that is too large, as much is read and dropped, so that the client gets to read the answer."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

AnyResult = TypeVar("AnyResult")
Respond = Callable[[HttpRequest], Awaitable[Response]]


class Disconnected(Exception):
    """The client has closed the connection."""


def create_app(model: ModelInfo, scheduler: Scheduler, *, token: str = "", local_only: bool = True) -> Starlette:
    """The ASGI application. With a `token`, every request must carry it. `local_only`: the server listens on the
    loopback, and answers to its names only, so that no web page can reach it through another name."""
    api = Api(model, scheduler, token, LOCAL_NAMES if local_only else ())
    routes = [
        Route("/v1/models", api.endpoint(api.list_models), methods=["GET"]),
        Route("/v1/models/{name:path}", api.endpoint(api.show_model), methods=["GET"]),
        Route("/v1/completions", api.endpoint(partial(api.generate, is_chat=False)), methods=["POST"]),
        Route("/v1/chat/completions", api.endpoint(partial(api.generate, is_chat=True)), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: unknown_url})


class Api:
    """The endpoints. `names` are those that the server answers to; empty: all."""

    def __init__(self, model: ModelInfo, scheduler: Scheduler, token: str, names: Sequence[str]) -> None:
        self._model, self._scheduler, self._token, self._names = model, scheduler, token, names
        self._created = int(time.time())

    def endpoint(self, respond: Respond) -> Respond:
        """`respond` behind the checks of host and token, with errors as answers. Nothing escapes to the server, which
        would print a traceback."""

        async def answer(request: HttpRequest) -> Response:
            try:
                self._check_host(request)
                self._check_token(request)
                return await respond(request)
            except Disconnected:
                return Response(status_code=499)  # nothing receives it: the connection is closed
            except Exception as error:  # noqa: BLE001 - every fault is an answer
                return to_response(to_api_error(error))

        return answer

    def _check_host(self, request: HttpRequest) -> None:
        host = request.headers.get("host", "")
        if self._names and host_name(host) not in self._names:
            raise ApiError(400, f"This server does not answer to the host {host[:80]!r}; use localhost or 127.0.0.1.")

    def _check_token(self, request: HttpRequest) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._token and not secrets.compare_digest(given.encode(), self._token.encode()):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    async def list_models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_record()]})

    async def show_model(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if name != self._model.name and name not in self._model.aliases:
            raise ApiError(404, f"The model {name!r} does not exist.", param="model", code="model_not_found")
        return JSONResponse(self._model_record())

    def _model_record(self) -> dict[str, Any]:
        return {
            "id": self._model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "llm-workbench",
            "max_model_len": self._model.context,
        }

    async def generate(self, request: HttpRequest, *, is_chat: bool) -> Response:
        body = await read_body(request)
        call = await asyncio.to_thread(parse_call, body, self._model, is_chat=is_chat)
        job = self._scheduler.submit(call.requests)
        answer, tokens = Answer(call, self._model.name, self._scheduler.tokenizer), job.tokens()
        try:
            first = await until_disconnect(request.receive, anext(tokens))
            if call.stream:
                return EventStream(render_stream(answer, job, first, tokens), lambda: self._scheduler.cancel(job))
            await until_disconnect(request.receive, collect(answer, first, tokens))
        except BaseException:
            self._scheduler.cancel(job)
            raise
        self._scheduler.cancel(job)
        answer.weights = job.weights
        return JSONResponse(answer.whole())


def host_name(header: str) -> str:
    """The name in a Host header, without the port; "" for one that is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class EventStream(Response):
    """Sends server-sent events; calls `close` at the end, and as soon as the client has disconnected."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], object]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(receive, self._send(send))
        except Disconnected:
            pass
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def render_stream(
    answer: Answer, job: Job, first: list[NewToken], rest: AsyncIterator[list[NewToken]]
) -> AsyncIterator[bytes]:
    """The events of a stream. A fault is its last event: the status has been sent."""
    answer.weights = job.weights
    yield answer.opening() + answer.chunk(first)
    try:
        async for tokens in rest:
            yield answer.chunk(tokens)
    except Exception as error:  # noqa: BLE001 - every fault is an answer
        yield event(to_api_error(error).body)
        return
    yield answer.closing()


async def collect(answer: Answer, first: list[NewToken], rest: AsyncIterator[list[NewToken]]) -> None:
    answer.add(first)
    async for tokens in rest:
        answer.add(tokens)


async def read_body(request: HttpRequest) -> bytes:
    """The body. Raises ApiError if it is too large or arrives too slowly, and Disconnected."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            parts, size = await read_parts(request.stream())
    except ClientDisconnect:
        raise Disconnected from None
    except TimeoutError:
        raise ApiError(408, f"The body of the request took longer than {BODY_SECONDS:.0f} seconds.") from None
    if size > MAX_BODY_BYTES:
        message = f"The body of the request is larger than {MAX_BODY_BYTES:,} bytes; shorten the prompt."
        raise ApiError(413, message, code="request_too_large")
    return b"".join(parts)


async def read_parts(stream: AsyncIterator[bytes]) -> tuple[list[bytes], int]:
    """The parts of a body, and its size. Past `MAX_BODY_BYTES` they are not kept, but read, since most clients read the
    answer only after they have sent everything."""
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        elif size > DISCARDED_BYTES:
            break
    return parts, size


async def until_disconnect(receive: Receive, work: Awaitable[AnyResult]) -> AnyResult:
    """The result of `work`. Raises Disconnected, and cancels `work`, if the client closes the connection before."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Disconnected
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unknown_url(request: HttpRequest, error: Exception) -> Response:
    """The answer for a wrong path or method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return to_response(
            ApiError(405, f"Not allowed to {request.method} on {request.url.path}.", code="method_not_allowed")
        )
    where = f"{request.method} {request.url.path}"
    return to_response(ApiError(status, f"Unknown request URL: {where}.", code="unknown_url"))


def to_response(error: ApiError) -> Response:
    headers = {"retry-after": "1"} if error.status == 429 else {}
    return JSONResponse(error.body, status_code=error.status, headers=headers)
