"""Which part of a corpus a tokenizer learns from: pieces of text evenly spread over all of it, or its beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

from llm.tokenizer.cuts import last_safe_cut

LARGEST_BLOCK = 1 << 13  # characters
SMALLEST_BLOCK = 16
BLOCKS_AT_LEAST = 256
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

Which = Literal["spread", "beginning"]


@dataclass(frozen=True)
class Sample:
    """`texts` to learn from, in the order of the corpus: `taken_bytes` of UTF-8, of `read_bytes` that were read."""

    texts: list[str]
    taken_bytes: int
    read_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing that was read was left out."""
        return self.taken_bytes == self.read_bytes


def take_sample(
    texts: Iterable[str], megabytes: float, which: Which = "spread", report: Callable[[int], None] = lambda read: None
) -> Sample:
    """About `megabytes` (10^6 bytes) of `texts`; all of them, exactly as they come, where there is no more.

    "beginning" reads no further than that, "spread" reads everything. Deterministic. `report` is called with the bytes
    read so far.
    """
    return _beginning(texts, megabytes, report) if which == "beginning" else _spread(texts, megabytes, report)


def _beginning(texts: Iterable[str], megabytes: float, report: Callable[[int], None]) -> Sample:
    """The last text is cut off at the end of the budget."""
    budget, read = megabytes * 1e6, 0
    taken: list[str] = []
    for text in texts:
        size = byte_length(text)
        if read + size > budget:
            taken.append(text[: int(len(text) * (budget - read) / size)])
            break
        taken.append(text)
        read += size
        report(read)
    total = sum(map(byte_length, taken))
    return Sample(taken, total, total)


def _spread(texts: Iterable[str], megabytes: float, report: Callable[[int], None]) -> Sample:
    """Blocks of text, of which those with the smallest priorities are kept.

    Block n has the fractional part of n times the golden ratio as its priority: the blocks below any bound lie nearly
    evenly apart, so that in one pass, without knowing how much will come, every part of the corpus keeps its share.
    """
    budget, read, taken = megabytes * 1e6, 0, 0
    size_of_block = int(min(max(budget / BLOCKS_AT_LEAST, SMALLEST_BLOCK), LARGEST_BLOCK))
    kept: list[tuple[float, int, int, str]] = []  # a heap: the block to give up next comes first
    number = 0
    for index, text in enumerate(texts):
        for block in _blocks(text, size_of_block):
            size = byte_length(block)
            read, taken, number = read + size, taken + size, number + 1
            heappush(kept, (-(number * GOLDEN_RATIO % 1), number, index, block))
            while taken > budget and len(kept) > 1:
                taken -= byte_length(heappop(kept)[3])
        report(read)
    return Sample(list(_joined(sorted(kept, key=lambda block: block[1]))), taken, read)


def _blocks(text: str, size: int) -> Iterator[str]:
    """`text` in blocks of about `size` characters, cut between words where there are any."""
    start = 0
    while len(text) - start > 2 * size:
        cut = last_safe_cut(text[start : start + size + 1], size - size // 4)
        stop = start + (cut or size)
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _joined(blocks: list[tuple[float, int, int, str]]) -> Iterator[str]:
    """Neighboring blocks of one text as one text again."""
    parts: list[str] = []
    last_number = last_index = -1
    for _, number, index, block in blocks:
        if parts and (index, number) != (last_index, last_number + 1):
            yield "".join(parts)
            parts = []
        parts.append(block)
        last_number, last_index = number, index
    if parts:
        yield "".join(parts)


def byte_length(text: str) -> int:
    """Bytes of `text` in UTF-8, a lone surrogate counted as one."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
