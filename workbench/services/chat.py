"""Replies, written in a thread of their own and told to the screen about ten times a second."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.services.conversation import KnobChanges
from workbench.services.talker import LiveService, Talker, TurnFormat, open_talker
from workbench.terminal import write_log

if TYPE_CHECKING:
    from llm.engine import Done, Piece

NEWS_EVERY = 0.1
"""Seconds between two messages about a growing reply."""

Opener = Callable[[Path, LiveService, str, Callable[[], bool]], Talker]
Work = Callable[["ChatService", Callable[[], bool]], Message]
"""Called in the chat's thread with the service and what says that it is to stop; returns the message to post."""


@dataclass
class ModelOpened(Message):
    """`reference` can be talked to; `name` is the run and the step it has now."""

    reference: str
    name: str
    parameters: int
    context: int
    decode: DecodeConfig
    turns: TurnFormat | None


@dataclass
class ModelRefused(Message):
    """`reference` cannot be talked to, and why."""

    reference: str
    problem: str


@dataclass
class ReplyBegan(Message):
    """The model `name` has begun to read `context`; `dropped_turns` oldest turns had no room."""

    reply: int
    name: str
    dropped_turns: int
    context: str
    knobs: DecodeConfig
    sha256: str
    live: bool
    device: str


@dataclass
class ReplyGrew(Message):
    """What came since the message before: `text`, and its tokens as `ids`. `first` is the seconds from asking to the
    first token."""

    reply: int
    text: str
    ids: tuple[int, ...]
    tokens: int
    tokens_per_second: float
    first: float
    context_used: int
    dropped: int


@dataclass
class ReplyEnded(Message):
    """No more comes. `reason` is stop, length, cancelled or failed; `others` are the further samples, `changes` the
    knobs that were changed meanwhile."""

    reply: int
    reason: str
    tokens: int = 0
    tokens_per_second: float = 0.0
    first: float = 0.0
    context_used: int = 0
    dropped: int = 0
    others: tuple[str, ...] = ()
    changes: KnobChanges = ()
    problem: str = ""


@dataclass
class JobFailed(Message):
    """What was asked for with `do` could not be done, and why."""

    problem: str


@dataclass
class Request:
    """A reply that is asked for. In a turn view, `history` holds the turns before and `prompt` is a question.

    `context`, where given, is the whole text to write on from, whatever prompt and history are. The reply begins with
    the tokens `given`.
    """

    number: int
    prompt: str
    knobs: DecodeConfig
    history: Sequence[tuple[str, str]] = ()
    turns: TurnFormat | None = None
    context: str | None = None
    given: Sequence[int] = ()
    asked: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Opening:
    """A model that is to be opened."""

    reference: str
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Job:
    """Something else to be done with the open model: `work` returns what is to be told."""

    work: Work
    post: Callable[[Message], object]
    cancelled: threading.Event = field(default_factory=threading.Event)


class ChatService:
    """One model at a time, one reply at a time. `post` is called from the thread; a screen's `post_message` will do."""

    def __init__(
        self, home: Path, training: LiveService, post: Callable[[Message], object], opener: Opener = open_talker
    ) -> None:
        self.home, self.training = home, training
        self.knobs = DecodeConfig()
        """Those of the next token; may be replaced at any time."""
        self._post, self._opener = post, opener
        self._jobs: queue.SimpleQueue[Request | Opening | Job | None] = queue.SimpleQueue()
        self._waiting: list[Request | Opening | Job] = []
        self._thread: threading.Thread | None = None
        self._talker: Talker | None = None
        self._other: Talker | None = None  # that of a past reply which is being looked at
        self._numbers = itertools.count(1)

    def open(self, reference: str) -> None:
        """Get a model ready; answered by ModelOpened or ModelRefused. A reply that is being written ends."""
        self.stop()
        self._queue(Opening(reference))

    def ask(
        self,
        prompt: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        turns: TurnFormat | None = None,
        context: str | None = None,
        given: Sequence[int] = (),
    ) -> int:
        """Have a reply written with the present knobs (see Request); returns its number."""
        request = Request(next(self._numbers), prompt, self.knobs, tuple(history), turns, context, tuple(given))
        self._queue(request)
        return request.number

    def do(self, work: Work, post: Callable[[Message], object] | None = None) -> None:
        """Have `work` done once the thread is free; its message, or JobFailed, goes to `post`, else to the screen."""
        self._queue(Job(work, post or self._post))

    def talker_for(self, model: str, sha256: str, cancelled: Callable[[], bool], *, keep: bool = False) -> Talker:
        """For a Job: a model with the weights that wrote a reply; the open one where it is that. Raises UserError.

        `keep`: it is likely to be asked for again.
        """
        for talker in (self._talker, self._other):
            if talker is not None and talker.name == model and talker.sha256 == sha256:
                return talker
        talker = self._opener(self.home, self.training, model, cancelled)
        if sha256 and talker.sha256 != sha256:
            raise UserError(f"{model} holds other weights than those that wrote this reply.")
        self._other = talker if keep else None
        return talker

    @property
    def is_at_a_job(self) -> bool:
        """Whether something is to be done, or being done, that was asked for with `do`."""
        return any(isinstance(job, Job) for job in list(self._waiting))

    def another(self, reference: str, cancelled: Callable[[], bool]) -> Talker:
        """For a Job: a model beside the open one. Raises UserError."""
        return self._opener(self.home, self.training, reference, cancelled)

    def stop(self) -> None:
        """End what is being done, within one token."""
        for job in list(self._waiting):
            job.cancelled.set()

    def close(self) -> None:
        """End the thread once it is done with its token."""
        self.stop()
        self._jobs.put(None)

    def _queue(self, job: Request | Opening | Job) -> None:
        self._waiting.append(job)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="chat", daemon=True)
            self._thread.start()

    # The thread

    def _work(self) -> None:
        from llm.engine import use_one_thread

        use_one_thread()
        while (job := self._jobs.get()) is not None:
            problem = self._problem_of(job)
            self._waiting.remove(job)
            if problem and isinstance(job, Opening):
                self._post(ModelRefused(job.reference, problem))
            elif problem and isinstance(job, Request):
                self._post(ReplyEnded(job.number, "failed", problem=problem))
            elif problem and isinstance(job, Job):
                job.post(JobFailed(problem))

    def _problem_of(self, job: Request | Opening | Job) -> str:
        """Do the job; what went wrong, in words, or ""."""
        try:
            if isinstance(job, Opening):
                self._open(job)
            elif isinstance(job, Request):
                self._reply(job)
            else:
                job.post(job.work(self, job.cancelled.is_set))
        except UserError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the thread must live on, and the person must be told
            write_log(traceback.format_exc())
            return f"the model failed ({type(error).__name__}: {error}); the details are in workbench.log."
        return ""

    def _open(self, job: Opening) -> None:
        if job.cancelled.is_set():
            return
        self._talker = self._other = None  # frees the weights of the one before
        talker = self._talker = self._opener(self.home, self.training, job.reference, job.cancelled.is_set)
        self._post(
            ModelOpened(job.reference, talker.name, talker.parameters, talker.context, talker.decode, talker.turns)
        )

    def _reply(self, request: Request) -> None:
        if self._talker is None:
            raise UserError("no model is open; choose one with ctrl+o.")
        talker, cancelled = self._talker, request.cancelled.is_set
        if cancelled():
            self._post(ReplyEnded(request.number, "cancelled"))
            return
        talker.update(cancelled)
        prompt, dropped_turns = fitting_prompt(talker, request)
        first = with_turn_stop(request.knobs, request.turns)
        self._post(
            ReplyBegan(
                request.number,
                talker.name,
                dropped_turns,
                prompt,
                first,
                talker.sha256,
                talker.in_training,
                talker.device,
            )
        )
        source = RecordedKnobs(first, lambda: with_turn_stop(self.knobs, request.turns))
        news = News(request.number, self._post, asked=request.asked)
        news.begin(request.given, talker.text_of(request.given))
        from llm.engine import Done

        for item in talker.stream(prompt, first, cancel=cancelled, knobs_source=source, given=request.given):
            if isinstance(item, Done):
                news.end(item, tuple(source.changes))
            else:
                news.take(item)


class RecordedKnobs:
    """Gives the knobs of `source` for every token, and remembers where they changed."""

    def __init__(self, first: DecodeConfig, source: Callable[[], DecodeConfig]) -> None:
        self._now, self._source = first, source
        self._tokens = 0
        self.changes: list[tuple[int, DecodeConfig]] = []

    def __call__(self) -> DecodeConfig:
        knobs = self._source()
        if knobs != self._now:
            self._now = knobs
            self.changes.append((self._tokens, knobs))
        self._tokens += 1
        return knobs


def with_turn_stop(knobs: DecodeConfig, turns: TurnFormat | None) -> DecodeConfig:
    """The knobs, and that an answer ends where the next question would begin."""
    if turns is None or turns.stop in knobs.stop:
        return knobs
    return replace(knobs, stop=(*knobs.stop, turns.stop))


def fitting_prompt(talker: Talker, request: Request) -> tuple[str, int]:
    """The text to write on from, without the oldest turns that leave too little room; and how many those are."""
    if request.context is not None:
        return request.context, 0
    from llm.engine import resolve_prompt

    asked = resolve_prompt(request.prompt)
    if request.turns is None:
        return asked, 0
    room = talker.context - min(request.knobs.max_tokens, talker.context // 4)
    history = list(request.history)
    while history and talker.count(request.turns.write(history, asked), request.knobs) > room:
        history.pop(0)
    return request.turns.write(history, asked), len(request.history) - len(history)


class News:
    """Gathers pieces and posts them in one message every NEWS_EVERY seconds; the first at once."""

    def __init__(
        self,
        reply: int,
        post: Callable[[Message], object],
        *,
        asked: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reply, self.post, self.clock = reply, post, clock
        self.asked = asked
        self.first = 0.0
        self.tokens = 0
        self.posted = -NEWS_EVERY
        self.text = ""
        self.ids: list[int] = []
        self.others: dict[int, list[str]] = {}

    def begin(self, given: Sequence[int], text: str) -> None:
        """The tokens that the reply was given to begin with."""
        self.ids += given
        self.text += text

    def end(self, done: Done, changes: KnobChanges = ()) -> None:
        """Post what is left, and that it is all."""
        place = (done.context_used, done.dropped)
        self._flush(*place)
        others = tuple("".join(texts) for _, texts in sorted(self.others.items()))
        self.post(
            ReplyEnded(
                self.reply, done.reason, done.tokens, done.tokens_per_second, self.first, *place, others, changes
            )
        )

    def take(self, piece: Piece) -> None:
        """One token more."""
        now = self.clock() - self.asked
        if piece.token_id is not None:
            self.tokens += 1
            self.first = self.first or now
        if piece.sample:
            self.others.setdefault(piece.sample, []).append(piece.text)
        else:
            self.text += piece.text
            self.ids += [] if piece.token_id is None else [piece.token_id]
        if now - self.posted >= NEWS_EVERY:
            self.posted = now
            self._flush(piece.context_used, piece.dropped)

    def _flush(self, context_used: int, dropped: int) -> None:
        now = self.clock() - self.asked
        speed = (self.tokens - 1) / (now - self.first) if self.tokens > 1 and now > self.first else 0.0
        ids = tuple(self.ids)
        self.post(ReplyGrew(self.reply, self.text, ids, self.tokens, speed, self.first, context_used, dropped))
        self.text, self.ids = "", []
