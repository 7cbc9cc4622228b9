"""JSON read from a text in pieces, one value in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

WORD = re.compile(r"[^ \t\n\r]")
MAX_VALUE = 1 << 26  # characters
MAX_LINE = 1 << 30
TOO_DEEP = "it is nested too deeply"


class JsonText:
    """A text of JSON, read from left to right. Errors are ValueErrors that say what is wrong."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self._text = ""
        self._place = 0
        self.is_broken = False  # whether the last value contains a line break

    def peek(self) -> str:
        """The next character that is not white space, without consuming it; "" at the end."""
        while True:
            if found := WORD.search(self._text, self._place):
                self._place = found.start()
                return found[0]
            self._place = len(self._text)
            if not self._read_more(1):
                return ""

    def take(self, characters: str) -> str:
        """Consume and return the next character, which must be one of `characters`."""
        found = self.peek()
        if not found or found not in characters:
            raise ValueError(f"{' or '.join(characters)} is missing")
        self._place += 1
        return found

    def value(self) -> Any:
        """The next value."""
        if not self.peek():
            raise ValueError("a value is missing")
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._place)
            except RecursionError as error:
                raise ValueError(TOO_DEEP) from error
            except ValueError:
                if not self._read_more(len(self._text) - self._place):  # it may continue in the next piece
                    raise
                continue
            if end < len(self._text) or isinstance(value, str | list | dict) or not self._read_more(1):
                self.is_broken = self._text.find("\n", self._place, end) >= 0
                self._place = end
                return value

    def items(self) -> Iterator[Any]:
        """The items of the next value, a list."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """The names in the next value, an object. After each name the caller must read its value."""
        self.take("{")
        while self.peek() == '"':
            name: str = self.value()
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return

    def ends_line(self) -> bool:
        """Whether the rest of the line is blank."""
        while True:
            rest, newline, _ = self._text[self._place :].partition("\n")
            if rest.strip():
                return False
            if newline or not self._read_more(1):
                return True

    def _read_more(self, wanted: int) -> bool:
        """Read at least `wanted` characters, fewer at the end of the text; returns whether any were read."""
        buffered = [self._text[self._place :]]
        self._place = 0
        if len(buffered[0]) > MAX_VALUE:
            raise ValueError(f"a value is longer than {MAX_VALUE:,} characters")
        count = 0
        while count < wanted and (piece := next(self._pieces, "")):
            buffered.append(piece)
            count += len(piece)
        self._text = "".join(buffered)
        return count > 0


def parse_json(text: str) -> Any:
    """The JSON value in `text`. ValueError if it is invalid or too deeply nested."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def split_lines(pieces: Iterable[str]) -> Iterator[str]:
    """The lines of a text with their line breaks. ValueError if one is longer than `MAX_LINE`."""
    buffered: list[str] = []
    length = 0
    for piece in pieces:
        first, *rest = piece.split("\n")
        buffered.append(first)
        length += len(first)
        if length > MAX_LINE:
            raise ValueError(f"it is longer than {MAX_LINE:,} characters")
        if rest:
            yield "".join(buffered) + "\n"
            yield from (line + "\n" for line in rest[:-1])
            buffered, length = [rest[-1]], len(rest[-1])
    if last := "".join(buffered):
        yield last
