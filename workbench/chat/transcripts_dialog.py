"""The dialog to search past conversations."""

from __future__ import annotations

import time
from pathlib import Path

from textual.content import Content

from workbench.chat.transcripts import PastConversation, list_conversations
from workbench.formatting import format_age
from workbench.text import one_line
from workbench.ui.chooser import Chooser, Entry


class PastConversations(Chooser[Path]):
    """Past conversations, filtered by their text. Returns a file, or None."""

    NAME = "Past conversations"
    GUIDE = (
        "All saved conversations, newest first. Type words of the prompts or replies, or RUN@STEP, to filter; Enter "
        "opens the selected one."
    )
    QUESTION = "Past conversations"
    PLACEHOLDER = "Words of the text, or RUN@STEP"
    EMPTY = "No conversations yet"

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def load(self) -> list[Entry[Path]]:
        return [Entry(one.file, one.prompt[:60], facts_of(one), one.text) for one in list_conversations(self.home)]

    def line(self, entry: Entry[Path], words: list[str]) -> Content:
        """The first prompt and facts; in a search, also the text around the first word."""
        found = entry.text.find(words[0]) if words else -1
        place = f"  …{one_line(entry.text[max(0, found - 20) : found + 40])}…" if found >= 0 else ""
        label = one_line(entry.label) or "(start of a document)"
        return Content.assemble(label, (f"  {one_line(entry.detail)}", "dim"), (place, "$text-accent"))


def facts_of(past: PastConversation) -> str:
    """Age, number of replies and models of a conversation."""
    replies = "1 reply" if past.exchanges == 1 else f"{past.exchanges} replies"
    models = ", ".join(past.models) or "no model"
    return f"{format_age(time.time() - past.created)} ago · {replies} · {models}"
