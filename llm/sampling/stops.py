"""Stop strings, found across token borders in a text that arrives piece by piece."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Holds back what may be the beginning of a stop string, and cuts the text before the first one found.

    `feed(piece)` returns the text that is safe to show; `found` says that a stop string was met, after which nothing
    more comes out. Of several, the first to be complete counts, however the text was cut. `finish()` returns what was
    still held back when the text ended otherwise.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        if self.found:
            return ""
        text = self._held + piece
        places = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)[1]]
        kept = self._possible_beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return rest

    def change(self, stops: Sequence[str]) -> None:
        """Look for other stop strings from the next piece on."""
        self._stops = tuple(stop for stop in stops if stop)

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            lengths = range(min(len(stop) - 1, len(text)), longest, -1)
            longest = max(longest, next((n for n in lengths if text.endswith(stop[:n])), 0))
        return longest
