"""The thread that generates text for all open requests, in batches."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from llm.engine import is_fastest_on_one_thread, use_one_thread
from llm.engine.continuous import ContinuousBatch, NewToken, Request
from llm.errors import UserError
from llm.model.packed import InferenceModel
from llm.tokenizer import Tokenizer
from workbench.serve.errors import ApiError

MAX_VERSIONS = 2
"""Weights that are in memory at once, while the model is in training."""


class Weights(NamedTuple):
    """A model to generate with, and its name, RUN@STEP."""

    model: InferenceModel
    tokenizer: Tokenizer
    name: str


LoadWeights = Callable[[], Weights | None]
"""The newest weights; None if they have not changed. Raises UserError."""


class Job:
    """The requests of a call while they run, as the event loop sees them. `weights` (RUN@STEP) is known with the first
    tokens."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self.weights = ""
        self.loop = asyncio.get_running_loop()
        self.news: asyncio.Queue[list[NewToken] | Exception] = asyncio.Queue()

    async def tokens(self) -> AsyncIterator[list[NewToken]]:
        """New tokens until every sample has ended, as many at a time as there are. Raises what generating raised."""
        running = sum(request.params.num_samples for request in self.requests)
        while running:
            found: list[NewToken] = []
            while not found or not self.news.empty():
                news = await self.news.get()
                if isinstance(news, Exception):
                    raise news
                found += news
            running -= sum(bool(token.reason) for token in found)
            yield found


class Scheduler:
    """Generates for all open requests in a separate thread. `submit` and `cancel` are called in the event loop.

    Of a model in training, a request gets the weights of its arrival; while `MAX_VERSIONS` are in use, the newest of
    them.
    """

    def __init__(self, load: LoadWeights, *, one_thread: bool, max_open: int) -> None:
        """Load the first weights. More than `max_open` calls at once are refused. `one_thread`: a training in this
        process needs the processors. Raises UserError."""
        first = load()
        assert first is not None, "the first load returns weights"
        self.tokenizer, self.max_open = first.tokenizer, max_open
        self._load = load
        self._one_thread = one_thread or is_fastest_on_one_thread(first.model)
        self._batches = [(first.name, ContinuousBatch(first.model, first.tokenizer))]
        self.max_rows, self.context = self._batches[0][1].max_rows, self._batches[0][1].context
        self._commands: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._waiting: deque[tuple[Job, Request]] = deque()
        self._jobs: dict[int, Job] = {}
        self._open: set[Job] = set()
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)

    @property
    def open_requests(self) -> int:
        """The number of requests that run or wait."""
        return len(self._open)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests that are open are not finished."""
        self._commands.put(("stop", None))
        self._thread.join()

    def submit(self, requests: Sequence[Request]) -> Job:
        """Generate for `requests`. ApiError if too many are open, or if one has more samples than fit."""
        if max(request.params.num_samples for request in requests) > self.max_rows:
            raise ApiError(400, f"n must be at most {self.max_rows} for this model.", param="n")
        if len(self._open) >= self.max_open:
            raise ApiError(429, "Too many requests are open; try again later.", code="rate_limit_exceeded")
        job = Job(requests)
        self._open.add(job)
        self._commands.put(("add", job))
        return job

    def cancel(self, job: Job) -> None:
        """Stop generating for `job`, which may have ended."""
        if job in self._open:
            self._open.discard(job)
            self._commands.put(("cancel", job))

    # --- in the thread

    def _run(self) -> None:
        if self._one_thread:
            use_one_thread()
        while self._obey():
            self._admit()
            for name, batch in self._batches:
                if not batch.is_empty:
                    self._step(name, batch)

    def _obey(self) -> bool:
        """Take the commands that are there, or wait for one if there is nothing to generate; False to stop."""
        is_idle = not self._waiting and all(batch.is_empty for _, batch in self._batches)
        has_new = False
        while is_idle or not self._commands.empty():
            command, job = self._commands.get()
            if command == "stop" or job is None:
                return False
            if command == "add":
                self._waiting += ((job, request) for request in job.requests)
                has_new = True
            else:
                self._drop(job)
            is_idle = False
        if has_new:
            self._renew()
        return True

    def _drop(self, job: Job) -> None:
        self._waiting = deque(pair for pair in self._waiting if pair[0] is not job)
        for request in job.requests:
            if self._jobs.pop(id(request), None) is not None:
                for _, batch in self._batches:
                    batch.cancel(request)

    def _renew(self) -> None:
        """Load newer weights if there are any, unless `MAX_VERSIONS` are in use."""
        name, newest = self._batches[-1]
        busy = [pair for pair in self._batches if not pair[1].is_empty]
        self._batches = busy if busy and busy[-1][1] is newest else [*busy, (name, newest)]
        if len(busy) >= MAX_VERSIONS:
            return
        try:
            newer = self._load()
        except UserError:
            return  # the training is busy, or has just ended: the weights that are here serve
        if newer is not None:
            self._batches = [*busy, (newer.name, ContinuousBatch(newer.model, newer.tokenizer))]

    def _admit(self) -> None:
        """Start the requests that wait, in their order, as far as there is room."""
        _, batch = self._batches[-1]
        while self._waiting and batch.has_room(self._waiting[0][1]):
            job, request = self._waiting.popleft()
            try:
                batch.add(request)
            except UserError as error:
                self._post([(job, error)])
            else:
                self._jobs[id(request)] = job

    def _step(self, name: str, batch: ContinuousBatch) -> None:
        """Generate one token of every row, and hand the new tokens to the event loop."""
        try:
            tokens = batch.step()
        except Exception as error:  # noqa: BLE001 - the requests must be answered, and the thread must not end
            self._fail(batch, error)
            return
        news: dict[Job, list[NewToken]] = {}
        for token in tokens:
            news.setdefault(self._jobs[id(token.request)], []).append(token)
        for job in news:
            job.weights = name
        self._post(list(news.items()))

    def _fail(self, batch: ContinuousBatch, error: Exception) -> None:
        """Answer the requests of `batch` with `error`, for example a shortage of memory."""
        requests = batch.requests
        for request in requests:
            batch.cancel(request)
        self._post([(self._jobs.pop(id(request)), error) for request in requests])

    def _post(self, news: Sequence[tuple[Job, list[NewToken] | Exception]]) -> None:
        """One call into the event loop for all requests: it costs as much as generating a token."""
        if news:
            with suppress(RuntimeError):  # the loop is closed: the server was ended at once
                news[0][0].loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: Sequence[tuple[Job, list[NewToken] | Exception]]) -> None:
        """In the event loop: hand out what is new."""
        for job, item in news:
            job.news.put_nowait(item)
