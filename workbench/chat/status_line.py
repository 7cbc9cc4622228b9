"""The line below the conversation: progress and end of a reply, and messages."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from workbench.chat.reply import Pace
from workbench.formatting import plural
from workbench.text import clean

REASONS = {
    "stop": "finished",
    "length": "stopped at max tokens",
    "cancelled": "stopped",
    "failed": "failed",
}


class ChatStatus(Static):
    """One line; the most important facts come first, since a long line is cut."""

    DEFAULT_CSS = """
    ChatStatus { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)

    def say(self, text: str, warn: bool = False) -> None:
        self.update(Content.styled(clean(text), "$warning" if warn else ""))

    def show_pace(self, pace: Pace, dropped_turns: int, problem: str = "") -> None:
        """Show a reply in progress; `problem` is about invalid sampling parameters."""
        self.say(" · ".join(filter(None, (problem, *figures(pace, dropped_turns)))), warn=bool(problem))

    def show_end(self, pace: Pace, dropped_turns: int, reason: str, *hints: str) -> None:
        """Show why a reply ended, and hints about keys."""
        self.say(" · ".join(filter(None, (REASONS.get(reason, reason), *figures(pace, dropped_turns), *hints))))


def figures(pace: Pace, dropped_turns: int) -> list[str]:
    """Tokens, speed and time to first token of a reply."""
    return [
        plural(pace.tokens, "token") if pace.tokens else "",
        f"{pace.tokens_per_second:.0f} tokens/s" if pace.tokens_per_second else "",
        f"first token {pace.first * 1000:.0f} ms" if pace.tokens else "",
        f"{plural(dropped_turns, 'oldest turn')} dropped" if dropped_turns else "",
    ]
