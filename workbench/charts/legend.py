"""The lines over a chart that say which curve is which, and what a read-out reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

Text = tuple[str, str]
"""Some text, and the name of its style."""

GAP = "  "
NAME_CELLS = (200, 32, 24, 16)  # how long a name may be: as long as it is, if that leaves room, else ever shorter


@dataclass(frozen=True)
class Entry:
    """What is said of one thing, in one piece: a sign, a name, a value. `may_go`: it is left out where there is no room
    for all."""

    sign: Text
    name: str
    style: str
    value: str = ""
    more: tuple[Text, ...] = ()
    """Further values that go by the same name."""
    may_go: bool = False

    def texts(self, longest: int) -> list[Text]:
        """It in texts and styles, its name no longer than `longest` cells."""
        words = [word for word in (shortened(self.name, longest), self.value) if word]
        start = " " if self.sign[0] else ""
        return [self.sign, (f"{start}{' '.join(words)}{GAP}", self.style), *self.more]


def lines_of(entries: Sequence[Entry], width: int, most: int) -> list[list[Text]]:
    """The entries in at most `most` lines of `width` cells. Where that is too little the names are shortened; where it
    is still too little the last of those that may go are counted only."""
    for longest in NAME_CELLS:
        lines = broken(entries, width, longest)
        if fits(lines, width, most):
            return lines
    many = sum(entry.may_go for entry in entries)
    for left_out in range(1, many):
        lines = broken(without_last(entries, left_out), width, NAME_CELLS[-1])
        if fits(lines, width, most):
            return lines
    return lines[:most]


def without_last(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The entries, but for the last `count` of those that may go one that says how many they are."""
    going = [entry for entry in entries if entry.may_go][-count:]
    kept: list[Entry] = []
    for entry in entries:
        if entry is going[-1]:
            kept.append(Entry(("", ""), f"… and {count} more", entry.style))
        elif not any(entry is one for one in going):
            kept.append(entry)
    return kept


def broken(entries: Sequence[Entry], width: int, longest: int) -> list[list[Text]]:
    """The entries in as many lines as they need, none of them torn."""
    lines: list[list[Text]] = [[]]
    for entry in entries:
        texts = entry.texts(longest)
        if lines[-1] and length(lines[-1] + texts) > width:
            lines.append([])
        lines[-1] += texts
    return lines


def fits(lines: Sequence[Sequence[Text]], width: int, most: int) -> bool:
    return len(lines) <= most and all(length(line) <= width for line in lines)


def length(line: Sequence[Text]) -> int:
    """The cells of a line without the gap at its end."""
    return cell_len("".join(text for text, _ in line).rstrip())


def shortened(name: str, longest: int) -> str:
    """A name of at most `longest` cells: what is cut is its middle, since names often differ in how they end."""
    if cell_len(name) <= longest:
        return name
    end = name
    while cell_len(end) > longest // 2:
        end = end[1:]
    return f"{set_cell_size(name, longest - 1 - cell_len(end))}…{end}"
