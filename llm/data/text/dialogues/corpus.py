"""The embedded dialogues as conversations to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llm.data.text import dialogues
from llm.data.text.conversations import Conversation
from llm.data.text.corpora import digest


class EmbeddedDialogues:
    """The dialogues of a seed, `size_bytes` of them."""

    name = "dialogues"

    def __init__(self, seed: int, size_bytes: int) -> None:
        self.seed, self.size_bytes = seed, size_bytes
        self.skipped: list[str] = []

    def rows(self) -> Iterator[Conversation]:
        return dialogues.dialogues(self.seed, self.size_bytes)

    def fingerprint(self, advance: Callable[[int], object] = lambda size: None) -> str:
        return digest("dialogues", dialogues.fingerprint(), str(self.seed), str(self.size_bytes))

    def warnings(self) -> list[str]:
        return []
