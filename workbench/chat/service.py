"""The chat's thread: it opens models, has replies written, and does what else needs a model, one after another."""

from __future__ import annotations

import itertools
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Exchange
from workbench.chat.models import LiveService, Talker, open_talker
from workbench.chat.reply import Post, ReplyEnded, Request, write_reply
from workbench.terminal import write_log

if TYPE_CHECKING:
    from llm.tokenizer.chat_template import ChatTemplate

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
    turns: ChatTemplate | None


@dataclass
class ModelRefused(Message):
    """`reference` cannot be talked to, and why."""

    reference: str
    problem: str


@dataclass
class JobFailed(Message):
    """What was asked for with `do` could not be done, and why."""

    problem: str


@dataclass
class JobOver(Message):
    """What was asked for with `do` is no longer being done."""


@dataclass
class Opening:
    """A model that is to be opened."""

    reference: str
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Job:
    """Something else to be done with the open model: `work` returns what is to be told."""

    work: Work
    post: Post
    cancelled: threading.Event = field(default_factory=threading.Event)


class ChatService:
    """One model at a time, one reply at a time. `post` is called from the thread; a screen's `post_message` will do."""

    def __init__(self, home: Path, training: LiveService, post: Post, opener: Opener = open_talker) -> None:
        self.home, self.training = home, training
        self.params = DecodeConfig()
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
        turns: ChatTemplate | None = None,
        file_text: str = "",
        like: Exchange | None = None,
        goes_on: Exchange | None = None,
        given: Sequence[int] = (),
    ) -> int:
        """Have a reply written with the present knobs (see Request); returns its number."""
        number = next(self._numbers)
        request = Request(number, prompt, self.params, tuple(history), turns, file_text, like, goes_on, tuple(given))
        self._queue(request)
        return request.number

    def do(self, work: Work, post: Post | None = None) -> None:
        """Have `work` done once the thread is free; its message, or JobFailed, goes to `post`, else to the screen."""
        self._queue(Job(work, post or self._post))

    def talker_for(self, model: str, sha256: str, cancelled: Callable[[], bool], *, keep: bool = False) -> Talker:
        """For a Job: a model with the weights that wrote a reply; the open one where it is that. Raises UserError.

        `keep`: it is likely to be asked for again.
        """
        for talker in (self._talker, self._other):
            if talker is not None and talker.name == model and sha256 in ("", talker.sha256):
                return talker
        talker = self._opener(self.home, self.training, model, cancelled)
        if sha256 and talker.sha256 != sha256:
            raise UserError(f"{model} holds other weights than those that wrote this reply.")
        self._other = talker if keep else None
        return talker

    @property
    def talker(self) -> Talker | None:
        """For a Job: the open model."""
        return self._talker

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
        while (job := self._jobs.get()) is not None:
            problem = self._problem_of(job)
            self._waiting.remove(job)
            if problem and isinstance(job, Opening):
                self._post(ModelRefused(job.reference, problem))
            elif problem and isinstance(job, Request):
                self._post(ReplyEnded(job.number, "failed", problem=problem))
            elif isinstance(job, Job):
                if problem:
                    job.post(JobFailed(problem))
                self._post(JobOver())

    def _problem_of(self, job: Request | Opening | Job) -> str:
        """Do the job; what went wrong, in words, or ""."""
        try:
            from llm.engine import use_one_thread

            use_one_thread()
            if isinstance(job, Opening):
                self._open(job)
            elif isinstance(job, Request):
                self._reply(job)
            else:
                job.post(job.work(self, job.cancelled.is_set))
        except UserError as error:
            return str(error)
        except ImportError as error:
            return f"PyTorch could not be loaded ({error}); llm-workbench doctor says more."
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
        write_reply(self._talker, request, lambda: self.params, self._post)
