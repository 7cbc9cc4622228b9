"""The legend above a chart: the names and values of its curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

Text = tuple[str, str]
"""A text, and the name of its style."""

GAP = "  "
NAME_WIDTHS = (200, 32, 24, 16)  # widths to try for names, from unlimited to short


@dataclass(frozen=True)
class Entry:
    """One entry: a sign, a name and a value. `can_drop`: it may be left out if there is no room for all."""

    sign: Text
    name: str
    style: str
    value: str = ""
    more: tuple[Text, ...] = ()
    """Further values with the same name."""
    can_drop: bool = False

    def texts(self, longest: int) -> list[Text]:
        """The entry as texts with styles; its name has at most `longest` cells."""
        words = [word for word in (shorten(self.name, longest), self.value) if word]
        start = " " if self.sign[0] else ""
        return [self.sign, (f"{start}{' '.join(words)}{GAP}", self.style), *self.more]


def lines_of(entries: Sequence[Entry], width: int, most: int) -> list[list[Text]]:
    """The entries in at most `most` lines of `width` cells. If there is too little room, names are shortened;
    then the last entries are replaced by their number."""
    for longest in NAME_WIDTHS:
        lines = break_lines(entries, width, longest)
        if fits(lines, width, most):
            return lines
    many = sum(entry.can_drop for entry in entries)
    for left_out in range(1, many):
        lines = break_lines(drop_last(entries, left_out), width, NAME_WIDTHS[-1])
        if fits(lines, width, most):
            return lines
    return lines[:most]


def drop_last(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The entries, with the last `count` droppable ones replaced by one that tells their number."""
    dropped = [entry for entry in entries if entry.can_drop][-count:]
    kept: list[Entry] = []
    for entry in entries:
        if entry is dropped[-1]:
            kept.append(Entry(("", ""), f"… and {count} more", entry.style))
        elif not any(entry is one for one in dropped):
            kept.append(entry)
    return kept


def break_lines(entries: Sequence[Entry], width: int, longest: int) -> list[list[Text]]:
    """The entries in as many lines as they need; an entry is never split."""
    lines: list[list[Text]] = [[]]
    for entry in entries:
        texts = entry.texts(longest)
        if lines[-1] and line_width(lines[-1] + texts) > width:
            lines.append([])
        lines[-1] += texts
    return lines


def fits(lines: Sequence[Sequence[Text]], width: int, most: int) -> bool:
    return len(lines) <= most and all(line_width(line) <= width for line in lines)


def line_width(line: Sequence[Text]) -> int:
    """The width of a line in cells, without the gap at its end."""
    return cell_len("".join(text for text, _ in line).rstrip())


def shorten(name: str, longest: int) -> str:
    """A name of at most `longest` cells, cut in the middle, since names often differ at the end."""
    if cell_len(name) <= longest:
        return name
    end = name
    while cell_len(end) > longest // 2:
        end = end[1:]
    return f"{set_cell_size(name, longest - 1 - cell_len(end))}…{end}"
