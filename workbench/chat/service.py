"""The chat's worker thread: opens models, generates replies and runs jobs that need a model, one at a time."""

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
from workbench.chat.model import ChatModel, open_model
from workbench.chat.reply import Post, ReplyEnded, Request, write_reply
from workbench.chat.weights import Cancel, LiveModels
from workbench.terminal import write_log

if TYPE_CHECKING:
    from llm.tokenizer.chat_template import ChatTemplate

Opener = Callable[[Path, LiveModels, str, Cancel], ChatModel]
Work = Callable[["ChatService", Cancel], Message]
"""Called in the worker thread with the service and a cancel function; returns the message to post."""


@dataclass
class ModelOpened(Message):
    """The model `reference` is open; `name` is its RUN@STEP. `is_tuned`: it was trained on conversations."""

    reference: str
    name: str
    parameters: int
    context: int
    decode: DecodeConfig
    template: ChatTemplate | None
    is_tuned: bool
    warnings: tuple[str, ...] = ()


@dataclass
class ModelOpenFailed(Message):
    """The model `reference` cannot be opened."""

    reference: str
    problem: str


@dataclass
class JobFailed(Message):
    """A job failed."""

    problem: str


@dataclass
class JobDone(Message):
    """A job has ended, successful or not."""


@dataclass
class Opening:
    """A request to open a model."""

    reference: str
    canceled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Job:
    """Other work with a model; the message that `work` returns goes to `post`."""

    work: Work
    post: Post
    canceled: threading.Event = field(default_factory=threading.Event)


class ChatService:
    """Opens one model and generates one reply at a time. `post` is called from the worker thread."""

    def __init__(self, home: Path, training: LiveModels, post: Post, opener: Opener = open_model) -> None:
        self.home, self.training = home, training
        self.params = DecodeConfig()
        """Parameters of the next token; may be replaced at any time."""
        self._post, self._opener = post, opener
        self._jobs: queue.SimpleQueue[Request | Opening | Job | None] = queue.SimpleQueue()
        self._waiting: list[Request | Opening | Job] = []
        self._thread: threading.Thread | None = None
        self._model: ChatModel | None = None
        self._other: ChatModel | None = None  # the model of an earlier reply, for the microscope
        self._numbers = itertools.count(1)

    def open(self, reference: str) -> None:
        """Open a model; posts ModelOpened or ModelOpenFailed. Stops the current reply."""
        self.stop()
        self._queue(Opening(reference))

    def ask(
        self,
        prompt: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        template: ChatTemplate | None = None,
        file_text: str = "",
        like: Exchange | None = None,
        continues: Exchange | None = None,
        given: Sequence[int] = (),
        system: str = "",
    ) -> int:
        """Generate a reply with the current parameters (see Request); returns its number."""
        number, turns = next(self._numbers), tuple(history)
        params = self.params
        self._queue(Request(number, prompt, params, turns, template, file_text, like, continues, tuple(given), system))
        return number

    def do(self, work: Work, post: Post | None = None) -> None:
        """Queue `work`; its message, or JobFailed, goes to `post`, by default to the screen."""
        self._queue(Job(work, post or self._post))

    def model_for(self, model: str, sha256: str, cancel: Cancel, *, keep: bool = False) -> ChatModel:
        """Inside a job: a model with the weights that wrote a reply, the open one if it has them. Raises UserError.

        `keep` caches it for the next call.
        """
        for chat_model in (self._model, self._other):
            if chat_model is not None and chat_model.name == model and sha256 in ("", chat_model.sha256):
                return chat_model
        chat_model = self._opener(self.home, self.training, model, cancel)
        if sha256 and chat_model.sha256 != sha256:
            raise UserError(f"{model} no longer has the weights that generated this reply.")
        self._other = chat_model if keep else None
        return chat_model

    @property
    def chat_model(self) -> ChatModel | None:
        """Inside a job: the open model."""
        return self._model

    @property
    def is_busy(self) -> bool:
        """Whether a job is running or queued."""
        return any(isinstance(job, Job) for job in list(self._waiting))

    def open_other(self, reference: str, cancel: Cancel) -> ChatModel:
        """Inside a job: open a second model. Raises UserError."""
        return self._opener(self.home, self.training, reference, cancel)

    def stop(self) -> None:
        """Cancel everything that is running or queued, within one token."""
        for job in list(self._waiting):
            job.canceled.set()

    def close(self) -> None:
        """End the worker thread after its current token."""
        self.stop()
        self._jobs.put(None)

    def _queue(self, job: Request | Opening | Job) -> None:
        self._waiting.append(job)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="chat", daemon=True)
            self._thread.start()

    # The worker thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            problem = self._run(job)
            self._waiting.remove(job)
            self._report_end(job, problem)

    def _report_end(self, job: Request | Opening | Job, problem: str) -> None:
        if problem and isinstance(job, Opening):
            self._post(ModelOpenFailed(job.reference, problem))
        if problem and isinstance(job, Request):
            self._post(ReplyEnded(job.number, "failed", problem=problem))
        if problem and isinstance(job, Job):
            job.post(JobFailed(problem))
        if isinstance(job, Job):
            self._post(JobDone())

    def _run(self, job: Request | Opening | Job) -> str:
        """Run a job; returns what went wrong, or ""."""
        try:
            from llm.engine import use_one_thread

            use_one_thread()
            if isinstance(job, Opening):
                self._open(job)
            elif isinstance(job, Request):
                self._reply(job)
            else:
                job.post(job.work(self, job.canceled.is_set))
        except UserError as error:
            return str(error)
        except ImportError as error:
            return f"PyTorch cannot be imported ({error}); run llm-workbench doctor."
        except Exception as error:  # noqa: BLE001 - the thread must survive, and the user must see the error
            write_log(traceback.format_exc())
            return f"The model failed ({type(error).__name__}: {error}); see workbench.log for details."
        return ""

    def _open(self, job: Opening) -> None:
        if job.canceled.is_set():
            return
        self._model = self._other = None  # frees the previous weights
        chat_model = self._model = self._opener(self.home, self.training, job.reference, job.canceled.is_set)
        facts = (chat_model.parameters, chat_model.context, chat_model.decode, chat_model.template, chat_model.is_tuned)
        self._post(ModelOpened(job.reference, chat_model.name, *facts, warnings=chat_model.warnings))

    def _reply(self, request: Request) -> None:
        if self._model is None:
            raise UserError("No model is open; press ctrl+o to choose one.")
        write_reply(self._model, request, lambda: self.params, self._post)
