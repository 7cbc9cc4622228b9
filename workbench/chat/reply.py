"""One reply: what is asked for, what is told of it while it grows, and how it comes from a model to the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Exchange, KnobChanges
from workbench.chat.models import Talker, run_name

if TYPE_CHECKING:
    from llm.engine import Done, Piece
    from llm.tokenizer.chat_template import ChatTemplate

NEWS_EVERY = 0.1
"""Seconds between two messages about a growing reply."""

Post = Callable[[Message], object]


@dataclass
class Request:
    """A reply that is asked for. In a turn view, `history` holds the turns before and `prompt` is a question.

    `file_text` is that of the file that `prompt` names, where it was read already. Whatever prompt and history are,
    `like` has it begin as another exchange began, and `goes_on` where that one stopped. The reply begins with the
    tokens `given`.
    """

    number: int
    prompt: str
    params: DecodeConfig
    history: Sequence[tuple[str, str]] = ()
    turns: ChatTemplate | None = None
    file_text: str = ""
    like: Exchange | None = None
    goes_on: Exchange | None = None
    given: Sequence[int] = ()
    asked: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Start:
    """What a reply goes on from: `context`, `begun` and `file_text` as in an Exchange; `dropped_turns` had no room."""

    context: str
    begun: Sequence[int] = ()
    file_text: str = ""
    dropped_turns: int = 0


@dataclass(frozen=True)
class Pace:
    """How far a reply is: `tokens` of all samples, `first` in seconds from asking to the first of them. `context_used`
    tokens are before the model, the `dropped` oldest no longer."""

    tokens: int = 0
    tokens_per_second: float = 0.0
    first: float = 0.0
    context_used: int = 0
    dropped: int = 0


@dataclass
class ReplyBegan(Message):
    """The model `name` has begun to read what the reply starts from."""

    reply: int
    name: str
    start: Start
    params: DecodeConfig
    sha256: str
    live: bool
    device: str
    warning: str = ""
    """What of the prompt the model does not get to see as it stands."""


@dataclass
class ReplyGrew(Message):
    """What came since the message before: `text`, and its tokens as `ids`. `changes` are all knobs changed so far;
    `problem` says why those of now do not hold, where they cannot."""

    reply: int
    text: str
    ids: tuple[int, ...]
    pace: Pace
    changes: KnobChanges = ()
    problem: str = ""


@dataclass
class ReplyEnded(Message):
    """No more comes. `reason` is stop, length, cancelled or failed; `others` are the further samples."""

    reply: int
    reason: str
    pace: Pace = Pace()
    others: tuple[str, ...] = ()
    problem: str = ""


def write_reply(talker: Talker, request: Request, knobs_now: Callable[[], DecodeConfig], post: Post) -> None:
    """Have `talker` write a reply with the knobs that `knobs_now` gives for every token, and post what comes of it.
    Raises UserError where prompt or knobs cannot be."""
    cancelled = request.cancelled.is_set
    if cancelled():
        post(ReplyEnded(request.number, "cancelled"))
        return
    from llm.engine import Done

    talker.update(cancelled)
    start = start_of(talker, request)
    params = RecordedParams(
        with_turn_stop(request.params, request.turns), lambda: with_turn_stop(knobs_now(), request.turns), talker.check
    )
    weights = (talker.sha256, talker.in_training, talker.device)
    warning = "" if start.begun else talker.prompt_changes(start.file_text or request.prompt)
    post(ReplyBegan(request.number, talker.name, start, params.first, *weights, warning))
    news = News(request.number, post, asked=request.asked, params=params)
    news.begin(request.given, talker.text_of(request.given))
    prompt = list(start.begun) or start.context
    for item in talker.stream(prompt, params.first, cancel=cancelled, params_source=params, given=request.given):
        if isinstance(item, Done):
            news.end(item)
        else:
            news.take(item)


class RecordedParams:
    """Gives the knobs of `source` for every token, and remembers where they changed.

    Those that `check` refuses, as a token's name that is half typed, change nothing: `problem` says why.
    """

    def __init__(
        self, first: DecodeConfig, source: Callable[[], DecodeConfig], check: Callable[[DecodeConfig], object]
    ) -> None:
        self.first = self._asked_for = self._now = first
        self._source, self._check = source, check
        self._tokens = 0
        self.changes: list[tuple[int, DecodeConfig]] = []
        self.problem = ""

    def __call__(self) -> DecodeConfig:
        params = self._source()
        if params != self._asked_for:
            self._asked_for = params
            self._take(params)
        self._tokens += 1
        return self._now

    def _take(self, params: DecodeConfig) -> None:
        try:
            self._check(params)
        except UserError as error:
            self.problem = str(error)
            return
        self.problem = ""
        if params != self._now:
            self._now = params
            self.changes.append((self._tokens, params))


def with_turn_stop(params: DecodeConfig, turns: ChatTemplate | None) -> DecodeConfig:
    """The knobs, and that an answer ends where the next question would begin."""
    if turns is None or turns.stop in params.stop:
        return params
    return replace(params, stop=(*params.stop, turns.stop))


def start_of(talker: Talker, request: Request) -> Start:
    """What to write on from, without the oldest turns that leave too little room."""
    if request.like is not None:
        like = request.like
        return Start(like.context, like.begun, like.file_text, like.dropped_turns)
    if request.goes_on is not None:
        return going_on(talker, request.goes_on)
    from llm.engine import resolve_prompt

    asked = request.file_text or resolve_prompt(request.prompt)
    file_text = asked if asked != request.prompt else ""
    if request.turns is None:
        return Start(asked, file_text=file_text)
    room = talker.context - min(request.params.max_tokens, talker.context // 4)
    history = list(request.history)
    while history and len(talker.prompt_ids(request.turns.render_prompt(history, asked), request.params)) > room:
        history.pop(0)
    dropped_turns = len(request.history) - len(history)
    return Start(request.turns.render_prompt(history, asked), file_text=file_text, dropped_turns=dropped_turns)


def going_on(talker: Talker, before: Exchange) -> Start:
    """Where a reply stopped: after its very tokens, of which the last may be half a character.

    After its text, where the tokens are another tokenizer's, or end with an end of text or a stop string.
    """
    text = before.context + before.reply
    if before.reason not in ("length", "cancelled") or run_name(before.model) != run_name(talker.name):
        return Start(text)
    return Start(text, [*talker.prompt_ids(before.start, before.params), *before.tokens])


class News:
    """Gathers pieces and posts them in one message every NEWS_EVERY seconds; the first at once."""

    def __init__(
        self,
        reply: int,
        post: Post,
        *,
        asked: float,
        params: RecordedParams,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reply, self.post, self.params, self.clock = reply, post, params, clock
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

    def end(self, done: Done) -> None:
        """Post what is left, and that it is all."""
        self._flush(done.context_used, done.dropped)
        others = tuple("".join(texts) for _, texts in sorted(self.others.items()))
        pace = Pace(done.tokens, done.tokens_per_second, self.first, done.context_used, done.dropped)
        self.post(ReplyEnded(self.reply, done.reason, pace, others))

    def _flush(self, context_used: int, dropped: int) -> None:
        now = self.clock() - self.asked
        speed = (self.tokens - 1) / (now - self.first) if self.tokens > 1 and now > self.first else 0.0
        pace = Pace(self.tokens, speed, self.first, context_used, dropped)
        changes, problem = tuple(self.params.changes), self.params.problem
        self.post(ReplyGrew(self.reply, self.text, tuple(self.ids), pace, changes, problem))
        self.text, self.ids = "", []
