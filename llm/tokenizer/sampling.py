"""The sample of a corpus that a tokenizer is trained on: blocks evenly spread over all of it, or its beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

from llm.tokenizer.cuts import last_safe_cut

MAX_BLOCK = 1 << 13  # characters
MIN_BLOCK = 16
MIN_BLOCKS = 256
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

Which = Literal["spread", "beginning"]


@dataclass(frozen=True)
class Sample:
    """`texts` to train on, in corpus order: `taken_bytes` of UTF-8 out of `read_bytes` that were read."""

    texts: list[str]
    taken_bytes: int
    read_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all of the text that was read."""
        return self.taken_bytes == self.read_bytes


def take_sample(
    texts: Iterable[str], megabytes: float, which: Which = "spread", report: Callable[[int], None] = lambda read: None
) -> Sample:
    """About `megabytes` (10^6 bytes) of `texts`, or all of them unchanged if they are smaller. Deterministic.

    "beginning" stops reading at the end of the sample, "spread" reads all texts. `report` is called with the number of
    bytes read so far.
    """
    return _take_beginning(texts, megabytes, report) if which == "beginning" else _take_spread(texts, megabytes, report)


def _take_beginning(texts: Iterable[str], megabytes: float, report: Callable[[int], None]) -> Sample:
    """Whole texts up to the budget; the last one is cut."""
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


def _take_spread(texts: Iterable[str], megabytes: float, report: Callable[[int], None]) -> Sample:
    """The blocks of text with the lowest priorities.

    The priority of block n is the fractional part of n times the golden ratio. The blocks with a priority below any
    bound are almost evenly spaced, so one pass over a corpus of unknown length samples all parts of it equally.
    """
    budget, read, taken = megabytes * 1e6, 0, 0
    block_size = int(min(max(budget / MIN_BLOCKS, MIN_BLOCK), MAX_BLOCK))
    kept: list[tuple[float, int, int, str]] = []  # a heap: the first block is dropped next
    number = 0
    for index, text in enumerate(texts):
        for block in _split_blocks(text, block_size):
            size = byte_length(block)
            read, taken, number = read + size, taken + size, number + 1
            heappush(kept, (-(number * GOLDEN_RATIO % 1), number, index, block))
            while taken > budget and len(kept) > 1:
                taken -= byte_length(heappop(kept)[3])
        report(read)
    return Sample(list(_join_blocks(sorted(kept, key=lambda block: block[1]))), taken, read)


def _split_blocks(text: str, size: int) -> Iterator[str]:
    """`text` in blocks of about `size` characters, cut between words where there are any."""
    start = 0
    while len(text) - start > 2 * size:
        cut = last_safe_cut(text[start : start + size + 1], size - size // 4)
        stop = start + (cut or size)
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _join_blocks(blocks: list[tuple[float, int, int, str]]) -> Iterator[str]:
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
    """Bytes of `text` in UTF-8; a lone surrogate counts as one."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
