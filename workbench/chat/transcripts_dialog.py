"""The conversations that were kept, and a search through them."""

from __future__ import annotations

import time
from pathlib import Path

from textual import work
from textual.content import Content
from textual.widgets.option_list import Option

from workbench.chat.transcripts import Past, list_past
from workbench.formatting import format_age
from workbench.text import one_line
from workbench.ui.chooser import Chooser


class PastConversations(Chooser[Path]):
    """Past conversations, narrowed by typing words that occur in them. Returns the file of one, or None."""

    NAME = "Past conversations"
    GUIDE = (
        "Every conversation that was had, the newest first. Type words that occur in its prompts or replies, or the "
        "RUN@STEP that wrote it; Enter opens the marked one."
    )
    QUESTION = "Past conversations"
    PLACEHOLDER = "words that occur in it, or RUN@STEP"

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.past: list[Past] | None = None
        self.found: list[Past] = []

    def on_mount(self) -> None:
        self.say("reading …")
        self._find()

    @work(thread=True, group="past")
    def _find(self) -> None:
        self.app.call_from_thread(self._take_all, list_past(self.home))

    def _take_all(self, past: list[Past]) -> None:
        if self.is_attached:  # else it was closed while the files were read
            self.past = past
            self.narrow()

    def narrow(self) -> None:
        if self.past is None:
            return
        words = self.typed.casefold().split()
        self.found = [one for one in self.past if one.holds(words)]
        self.fill([Option(line_of(one, words), id=str(number)) for number, one in enumerate(self.found)])
        count = f"{len(self.found)} of {len(self.past)} · ↑ ↓ choose · Enter opens it · esc"
        self.say(count if self.past else "none yet: every reply is kept once it is there · esc")

    def take(self, identity: str) -> None:
        self.dismiss(self.found[int(identity)].file)


def line_of(past: Past, words: list[str]) -> Content:
    """A conversation in one line of the list: how it begins or, in a search, where the first word occurs."""
    begin = one_line(past.prompt[:60]) or "(start of a document)"
    replies = "1 reply" if past.exchanges == 1 else f"{past.exchanges} replies"
    models = one_line(", ".join(past.models)) or "no model"
    facts = f"  {format_age(time.time() - past.created)} ago · {replies} · {models}"
    found = past.text.find(words[0]) if words else -1
    place = f"  …{one_line(past.text[max(0, found - 20) : found + 40])}…" if found >= 0 else ""
    return Content.assemble(begin, (facts, "dim"), (place, "$text-accent"))
