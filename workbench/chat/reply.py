"""One reply: the request, the messages while it is generated, and the loop that posts them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Exchange, ParamsChanges
from workbench.chat.model import ChatModel
from workbench.chat.model_choices import run_name

if TYPE_CHECKING:
    from llm.engine import Done, Piece
    from llm.tokenizer.chat_template import ChatTemplate

POST_EVERY = 0.1
"""Seconds between two messages of a reply."""

Post = Callable[[Message], object]


@dataclass
class Request:
    """A request for a reply. In chat mode, `prompt` is a question, `history` the turns before it, and `system` the
    system prompt, if there is one.

    `file_text` is the text of the file that `prompt` names, if it was read before. `like` starts from the same text as
    another exchange, `continues` from the end of another reply; both replace prompt and history. The reply begins with
    the tokens `given`.
    """

    number: int
    prompt: str
    params: DecodeConfig
    history: Sequence[tuple[str, str]] = ()
    template: ChatTemplate | None = None
    file_text: str = ""
    like: Exchange | None = None
    continues: Exchange | None = None
    given: Sequence[int] = ()
    system: str = ""
    requested: float = field(default_factory=time.monotonic)
    canceled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Start:
    """The start of a reply: `context`, `begun` and `file_text` as in `Exchange`; `dropped_turns` did not fit."""

    context: str
    begun: Sequence[int] = ()
    file_text: str = ""
    dropped_turns: int = 0


@dataclass(frozen=True)
class Pace:
    """Progress of a reply: `tokens` of all samples; `first`, the time to first token in seconds. `context_used` tokens
    are in the context window; the `dropped` oldest ones no longer fit."""

    tokens: int = 0
    tokens_per_second: float = 0.0
    first: float = 0.0
    context_used: int = 0
    dropped: int = 0


@dataclass
class ReplyStarted(Message):
    """The model `name` starts a reply with `params`."""

    reply: int
    name: str
    start: Start
    params: DecodeConfig
    sha256: str
    live: bool
    device: str
    warning: str = ""
    """About characters of the prompt that the tokenizer changes."""


@dataclass
class ReplyUpdated(Message):
    """New `text` and its tokens `ids`. `changes`: all parameter changes so far; `problem`: why the current ones are
    invalid."""

    reply: int
    text: str
    ids: tuple[int, ...]
    pace: Pace
    changes: ParamsChanges = ()
    problem: str = ""


@dataclass
class ReplyEnded(Message):
    """The end of a reply. `reason`: a `Reason`, or failed; `others`: the texts of further samples."""

    reply: int
    reason: str
    pace: Pace = Pace()
    others: tuple[str, ...] = ()
    problem: str = ""


def write_reply(chat_model: ChatModel, request: Request, params_source: Callable[[], DecodeConfig], post: Post) -> None:
    """Generate a reply with the parameters that `params_source` returns for every token, and post its messages.
    UserError for an invalid prompt or parameter."""
    canceled = request.canceled.is_set
    if canceled():
        post(ReplyEnded(request.number, "cancelled"))
        return
    from llm.engine import Done

    chat_model.update(canceled)
    start = resolve_start(chat_model, request)
    template = request.template
    prompt = list(start.begun) or start.context
    length = len(chat_model.prompt_ids(prompt, request.params)) + len(request.given)

    def adjust(params: DecodeConfig) -> DecodeConfig:
        """For a turn: end at the template's stop string, and before the oldest tokens would leave the context."""
        return (
            params
            if template is None
            else limit_to_context(add_stop_string(params, template), length, chat_model.context)
        )

    params = ParamsRecorder(adjust(request.params), lambda: adjust(params_source()), chat_model.validate)
    weights = (chat_model.sha256, chat_model.in_training, chat_model.device)
    warning = "" if start.begun else chat_model.prompt_changes(start.file_text or request.prompt)
    post(ReplyStarted(request.number, chat_model.name, start, params.first, *weights, warning))
    poster = ReplyPoster(request.number, post, requested=request.requested, params=params)
    poster.begin(request.given, chat_model.text_of(request.given))
    for item in chat_model.stream(prompt, params.first, cancel=canceled, params_source=params, given=request.given):
        if isinstance(item, Done):
            poster.end(item)
        else:
            poster.add(item)


class ParamsRecorder:
    """Returns the parameters of `source` for every token, and records where they changed.

    Parameters that `validate` rejects, such as an incomplete token name, are ignored; `problem` says why.
    """

    def __init__(
        self, first: DecodeConfig, source: Callable[[], DecodeConfig], validate: Callable[[DecodeConfig], object]
    ) -> None:
        self.first = self._latest = self._current = first
        self._source, self._validate = source, validate
        self._tokens = 0
        self.changes: list[tuple[int, DecodeConfig]] = []
        self.problem = ""

    def __call__(self) -> DecodeConfig:
        params = self._source()
        if params != self._latest:
            self._latest = params
            self._apply(params)
        self._tokens += 1
        return self._current

    def _apply(self, params: DecodeConfig) -> None:
        try:
            self._validate(params)
        except UserError as error:
            self.problem = str(error)
            return
        self.problem = ""
        if params != self._current:
            self._current = params
            self.changes.append((self._tokens, params))


def limit_to_context(params: DecodeConfig, length: int, context: int) -> DecodeConfig:
    """`params` limited so that the reply to a prompt of `length` tokens ends when the context is full."""
    total = params.max_total_tokens
    return params if length >= context else replace(params, max_total_tokens=min(total or context, context))


def add_stop_string(params: DecodeConfig, template: ChatTemplate) -> DecodeConfig:
    """`params` with the stop string of a chat template that has no special token for the end of an answer."""
    if not template.stop or template.stop in params.stop:
        return params
    return replace(params, stop=(*params.stop, template.stop))


def resolve_start(chat_model: ChatModel, request: Request) -> Start:
    """The start of a reply. The oldest turns are dropped until the reply has room in the context."""
    if request.like is not None:
        like = request.like
        return Start(like.context, like.begun, like.file_text, like.dropped_turns)
    if request.continues is not None:
        return continuation(chat_model, request.continues)
    from llm.engine import resolve_prompt

    text = request.file_text or resolve_prompt(request.prompt)
    file_text = text if text != request.prompt else ""
    if request.template is None:
        return Start(text, file_text=file_text)
    return turn_start(chat_model, request, request.template, text, file_text)


def turn_start(chat_model: ChatModel, request: Request, template: ChatTemplate, text: str, file_text: str) -> Start:
    """The start of an answer to the question `text`: the system prompt, and as many of the last turns as leave room."""
    from llm.tokenizer.chat_template import Message

    room = chat_model.context - min(request.params.max_tokens, chat_model.context // 4)
    system = [Message("system", request.system)] if request.system else []
    turns = [(Message("user", question), Message("assistant", answer)) for question, answer in request.history]
    dropped = 0
    while True:
        messages = [*system, *(message for turn in turns[dropped:] for message in turn), Message("user", text)]
        ids = chat_model.conversation_ids(messages)
        if len(ids) <= room or dropped == len(turns):
            break
        dropped += 1
    context = template.render_prompt(messages)
    begun = ids if ids != chat_model.prompt_ids(context, request.params) else ()
    return Start(context, begun, file_text, dropped)


def continuation(chat_model: ChatModel, before: Exchange) -> Start:
    """Continue the reply `before`: its exact tokens, since the last may be an incomplete character.

    Its text if the model is of another run, or if the reply ended with the end of text or a stop string.
    """
    text = before.context + before.reply
    if before.reason not in ("length", "cancelled") or run_name(before.model) != run_name(chat_model.name):
        return Start(text)
    return Start(text, [*chat_model.prompt_ids(before.start, before.params), *before.tokens])


class ReplyPoster:
    """Collects pieces and posts them in one message every POST_EVERY seconds; the first at once."""

    def __init__(
        self,
        reply: int,
        post: Post,
        *,
        requested: float,
        params: ParamsRecorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reply, self.post, self.params, self.clock = reply, post, params, clock
        self.requested = requested
        self.first = 0.0
        self.tokens = self.drafted = 0  # drafted: tokens of all replies before the best one is chosen
        self.posted = -POST_EVERY
        self.text = ""
        self.ids: list[int] = []
        self.others: dict[int, list[str]] = {}

    def begin(self, given: Sequence[int], text: str) -> None:
        """Begin the reply with the tokens `given`."""
        self.ids += given
        self.text += text

    def add(self, piece: Piece) -> None:
        """Add a piece."""
        now = self.clock() - self.requested
        is_token, is_draft = piece.token_id is not None, piece.token_id is None and not piece.reason
        self.tokens += is_token
        self.drafted += is_draft
        if is_token or is_draft:
            self.first = self.first or now
        if piece.sample:
            self.others.setdefault(piece.sample, []).append(piece.text)
        else:
            self.text += piece.text
            self.ids += [] if piece.token_id is None else [piece.token_id]
        if now - self.posted >= POST_EVERY:
            self.posted = now
            self._flush(piece.context_used, piece.dropped)

    def end(self, done: Done) -> None:
        """Post the rest and ReplyEnded."""
        self._flush(done.context_used, done.dropped)
        others = tuple("".join(texts) for _, texts in sorted(self.others.items()))
        pace = Pace(done.tokens, done.tokens_per_second, self.first, done.context_used, done.dropped)
        self.post(ReplyEnded(self.reply, done.reason, pace, others))

    def _flush(self, context_used: int, dropped: int) -> None:
        now = self.clock() - self.requested
        tokens = max(self.tokens, self.drafted)
        speed = (tokens - 1) / (now - self.first) if tokens > 1 and now > self.first else 0.0
        pace = Pace(tokens, speed, self.first, context_used, dropped)
        changes, problem = tuple(self.params.changes), self.params.problem
        self.post(ReplyUpdated(self.reply, self.text, tuple(self.ids), pace, changes, problem))
        self.text, self.ids = "", []
