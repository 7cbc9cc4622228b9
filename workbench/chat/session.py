"""The state of the chat: the open model, the conversation, and the reply that is being generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Conversation, Exchange, Kind
from workbench.chat.model_choices import run_name
from workbench.chat.reply import ReplyEnded, ReplyStarted, ReplyUpdated
from workbench.chat.service import ChatService, ModelOpened
from workbench.chat.transcripts import save_exchange


class ChatSession:
    """One model and one conversation. Finished replies are saved in the conversation's file.

    `reference` names the model to open, and `model` is None until it is open. `writing` is the number of the reply in
    progress, 0 for none, and `current` its exchange.
    """

    def __init__(self) -> None:
        self.service: ChatService | None = None
        self.reference = ""
        self.model: ModelOpened | None = None
        self.conversation = Conversation()
        self.chat_mode = False
        self.current: Exchange | None = None
        self.writing = 0

    @property
    def exchanges(self) -> list[Exchange]:
        """The visible branch of the conversation."""
        return self.conversation.path()

    def open(self, reference: str) -> None:
        """Open a model, once there is a service."""
        self.reference = reference
        self.model = None
        if self.service is not None:
            self.service.open(reference)

    def use(self, model: ModelOpened) -> None:
        """Use the model that was opened.

        A model that was trained on conversations chats. Any other keeps the mode, and completes if it has no template.
        """
        self.model = model
        self.chat_mode = model.template is not None and (model.is_tuned or self.chat_mode)

    @property
    def is_busy(self) -> bool:
        """Whether a reply is being generated or a job is running."""
        return bool(self.writing) or (self.service is not None and self.service.is_busy)

    def stop(self) -> None:
        """Stop the reply and the jobs."""
        if self.service is not None:
            self.service.stop()

    @property
    def obstacle(self) -> str:
        """Why no reply can start now, or ""."""
        if self.writing:
            return "A reply is being generated; press esc to stop it."
        if self.model is None:
            return "The model is still loading." if self.reference else "No model is open; press ctrl+o to choose one."
        return ""

    def same_run(self, exchange: Exchange) -> bool:
        """Whether the open model is of the run that wrote `exchange`, so that token ids mean the same."""
        return self.model is not None and bool(exchange.model) and run_name(exchange.model) == run_name(self.model.name)

    def ask(
        self,
        params: DecodeConfig,
        kind: Kind,
        prompt: str,
        parent: int,
        *,
        file_text: str = "",
        like: Exchange | None = None,
        given: Sequence[int] = (),
    ) -> Exchange:
        """Start a new exchange after `parent`; `file_text`, `like` and `given` as in `Request`."""
        assert self.service is not None and self.model is not None
        exchange = self.current = self.conversation.add(kind, prompt, parent)
        exchange.given = len(given)
        if like is not None:
            exchange.system = like.system
        self.service.params = params
        self.writing = self.service.ask(
            prompt,
            history=self.conversation.history(exchange),
            template=self.model.template if exchange.is_turn else None,
            file_text=file_text,
            like=like,
            continues=self.conversation.exchanges[parent] if kind == "on" else None,
            given=given,
            system=exchange.system,
        )
        return exchange

    def exchange_of(self, event: ReplyStarted | ReplyUpdated | ReplyEnded) -> Exchange | None:
        """The current exchange; None for an event of an earlier reply."""
        return self.current if event.reply == self.writing else None

    def begin(self, exchange: Exchange, event: ReplyStarted) -> None:
        """Record which weights reply, and to what."""
        assert self.model is not None
        start = event.start
        self.model.name = exchange.model = event.name
        exchange.sha256, exchange.live, exchange.device = event.sha256, event.live, event.device
        exchange.file_text, exchange.context, exchange.begun = start.file_text, start.context, list(start.begun)
        exchange.params, exchange.dropped_turns = event.params, start.dropped_turns

    def finish(self, home: Path, reason: str) -> str:
        """End the current exchange and save it; returns why it could not be saved, or ""."""
        current, self.current, self.writing = self.current, None, 0
        if current is None:
            return ""
        current.reason = reason
        try:
            save_exchange(home, self.conversation, current)
        except UserError as error:
            return str(error)
        return ""
