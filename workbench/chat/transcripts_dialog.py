"""The dialog to search past conversations."""

from __future__ import annotations

import time
from pathlib import Path

from textual import work
from textual.content import Content
from textual.widgets.option_list import Option

from workbench.chat.transcripts import PastConversation, list_conversations
from workbench.formatting import format_age
from workbench.text import one_line
from workbench.ui.chooser import Chooser


class PastConversations(Chooser[Path]):
    """Past conversations, filtered by their text. Returns a file, or None."""

    NAME = "Past conversations"
    GUIDE = (
        "All saved conversations, newest first. Type words of the prompts or replies, or RUN@STEP, to filter; Enter "
        "opens the selected one."
    )
    QUESTION = "Past conversations"
    PLACEHOLDER = "Words of the text, or RUN@STEP"

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.past: list[PastConversation] | None = None
        self.found: list[PastConversation] = []

    def on_mount(self) -> None:
        self.say("Loading …")
        self._load()

    @work(thread=True, group="past")
    def _load(self) -> None:
        self.app.call_from_thread(self._show_all, list_conversations(self.home))

    def _show_all(self, past: list[PastConversation]) -> None:
        if self.is_attached:  # false if it was closed meanwhile
            self.past = past
            self.narrow()

    def narrow(self) -> None:
        if self.past is None:
            return
        words = self.typed.casefold().split()
        self.found = [one for one in self.past if one.contains(words)]
        self.fill([Option(line_of(one, words), id=str(number)) for number, one in enumerate(self.found)])
        count = f"{len(self.found)} of {len(self.past)} · ↑ ↓ select · Enter open · esc cancel"
        self.say(count if self.past else "No conversations yet · esc cancel")

    def take(self, identity: str) -> None:
        self.dismiss(self.found[int(identity)].file)


def line_of(past: PastConversation, words: list[str]) -> Content:
    """A line of the list: the first prompt and, in a search, the text around the first word."""
    begin = one_line(past.prompt[:60]) or "(start of a document)"
    replies = "1 reply" if past.exchanges == 1 else f"{past.exchanges} replies"
    models = one_line(", ".join(past.models)) or "no model"
    facts = f"  {format_age(time.time() - past.created)} ago · {replies} · {models}"
    found = past.text.find(words[0]) if words else -1
    place = f"  …{one_line(past.text[max(0, found - 20) : found + 40])}…" if found >= 0 else ""
    return Content.assemble(begin, (facts, "dim"), (place, "$text-accent"))
