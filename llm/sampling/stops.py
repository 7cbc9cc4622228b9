"""Stop strings in streamed text, found across token boundaries."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Buffers text that may begin a stop string, and ends the text before the first complete one.

    `feed(piece)` returns the text that is safe to show; once `found` is true, it returns nothing. The stop string that
    is complete first counts, no matter how the text is split into pieces. `finish()` returns the rest of the buffer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._buffer = ""
        self.found = False

    def feed(self, piece: str) -> str:
        if self.found:
            return ""
        text = self._buffer + piece
        places = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._buffer = True, ""
            return text[: min(places)[1]]
        pending = self._partial_match(text)
        self._buffer = text[len(text) - pending :]
        return text[: len(text) - pending]

    def finish(self) -> str:
        rest, self._buffer = self._buffer, ""
        return rest

    def set_stops(self, stops: Sequence[str]) -> None:
        """Search the following pieces for other stop strings."""
        self._stops = tuple(stop for stop in stops if stop)

    def _partial_match(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            lengths = range(min(len(stop) - 1, len(text)), longest, -1)
            longest = max(longest, next((n for n in lengths if text.endswith(stop[:n])), 0))
        return longest
