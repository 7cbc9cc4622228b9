"""Shows a reply on the Chat screen while it is generated."""

from __future__ import annotations

from textual.screen import Screen

from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.conversation_view import ConversationView
from workbench.chat.model_line import ModelLine
from workbench.chat.reply import Pace, ReplyEnded, ReplyStarted, ReplyUpdated
from workbench.chat.session import ChatSession
from workbench.chat.status_line import ChatStatus
from workbench.formatting import plural
from workbench.text import clean, one_line


class ReplyDisplay:
    """Writes the events of a reply into its exchange and to the widgets of the screen."""

    def __init__(self, screen: Screen[None], session: ChatSession) -> None:
        self._screen, self._session = screen, session

    @property
    def _transcript(self) -> ConversationView:
        return self._screen.query_one(ConversationView)

    @property
    def _status(self) -> ChatStatus:
        return self._screen.query_one(ChatStatus)

    def begin(self, event: ReplyStarted) -> None:
        """The model starts to reply."""
        current = self._session.exchange_of(event)
        if current is None or self._session.model is None:
            return
        self._session.begin(current, event)
        self._transcript.show_context(current)
        if event.params.best_of > 1:
            self._status.say(f"Generating {event.params.best_of} replies to choose the best …")
        if event.warning:
            self._screen.notify(clean(event.warning), severity="warning", markup=False)

    def grow(self, event: ReplyUpdated) -> None:
        """There is more text."""
        current = self._session.exchange_of(event)
        if current is None:
            return
        text = current.extend(event.text, event.ids)
        current.changes = event.changes
        self._transcript.write(text, "reply")
        self._meter(event.pace)
        self._status.show_pace(event.pace, current.dropped_turns, event.problem)

    def end(self, event: ReplyEnded) -> bool:
        """The reply is complete, or failed; False for an earlier reply."""
        current = self._session.exchange_of(event)
        if current is None:
            return False
        current.others, current.problem, current.dropped = event.others, event.problem, event.pace.dropped
        self._transcript.write_end(current)
        self._meter(event.pace)
        more = "ctrl+g: continue" if current.kind != "turn" and event.reason == "length" else ""
        keep = "esc, then K: save these weights" if current.live and event.pace.tokens else ""
        self._status.show_end(event.pace, current.dropped_turns, event.reason, more, keep)
        return True

    def _meter(self, pace: Pace) -> None:
        if self._session.model is not None and pace.tokens:
            self._screen.query_one(ModelLine).meter(pace.context_used, self._session.model.context, pace.dropped)


def facts_of(conversation: Conversation, exchange: Exchange) -> str:
    """Who wrote a reply and how, in one line."""
    place, count = conversation.position(exchange)
    facts = [
        exchange.model or "no model",
        f"seed {exchange.params.seed}",
        plural(len(exchange.tokens), "token"),
        f"branch {place} of {count}" if count > 1 else "",
        f"{plural(exchange.dropped_turns, 'oldest turn')} dropped" if exchange.dropped_turns else "",
        f"{plural(exchange.dropped, 'oldest token')} dropped" if exchange.dropped else "",
    ]
    return one_line(" · ".join(fact for fact in facts if fact))
