"""Which part of a corpus trains the model and which is held out to test it."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm.config.schema import DataConfig
from llm.data.text.corpora import Corpus

LARGEST_BLOCK = 1 << 16  # sixteen to a batch of the tokenizer, which may encode them on as many threads
SMALLEST_BLOCK = 16


class Unit(NamedTuple):
    """A stretch of one document that goes to one side whole. `begins` and `ends`: whether the document does here."""

    held_out: bool
    begins: bool
    ends: bool
    pieces: Iterable[str]


def units(corpus: Corpus, data: DataConfig, characters: int = 0) -> Iterator[Unit]:
    """The corpus in order, each stretch assigned to a side.

    documents: whole documents, evenly spread; one that is larger than half of what is to be held out is cut into
    blocks at line borders first. tail: everything after the first (1 - fraction) of `characters`, which the
    caller has counted.
    """
    if data.split == "tail":
        return tail_units(corpus, int((1 - data.validation_fraction) * characters))
    return spread_units(corpus, data.validation_fraction)


def count_characters(corpus: Corpus) -> int:
    return sum(len(piece) for document in corpus.documents() for piece in document.pieces)


def spread_units(corpus: Corpus, fraction: float) -> Iterator[Unit]:
    wanted = corpus.size_bytes * fraction
    block_size = int(min(max(wanted / 8, SMALLEST_BLOCK), LARGEST_BLOCK))
    spread = Spread(fraction)
    for document in corpus.documents():
        if document.size_bytes <= wanted / 2:
            yield Unit(spread.takes(), True, True, document.pieces)
            continue
        begins = True
        for block, more in with_more(blocks(document.pieces, block_size)):
            yield Unit(spread.takes(), begins, not more, (block,))
            begins = False


def tail_units(corpus: Corpus, cut: int) -> Iterator[Unit]:
    seen = 0
    for document in corpus.documents():
        if seen >= cut:
            yield Unit(True, True, True, document.pieces)
            continue
        head = Head(document.pieces, cut - seen)
        yield Unit(False, True, True, head)
        seen += head.length
        if head.rest:
            yield Unit(True, False, True, itertools.chain(head.rest, head.source))


class Spread:
    """Takes a share of a stream of things, whatever their size: one, chosen by a hash, of each 1/fraction in a row.

    Spread evenly, but not at equal distances, which a corpus with a period of its own would turn into a bias.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.seen = 0
        self._stratum = self._end = 0
        self._chosen = -1

    def takes(self) -> bool:
        """Whether the next thing is taken."""
        if self.seen == self._end:
            self._stratum += 1
            self._end = math.ceil(self._stratum / self.fraction)
            mark = hashlib.blake2b(b"%d" % self._stratum, digest_size=8).digest()
            self._chosen = self.seen + int.from_bytes(mark, "little") % (self._end - self.seen)
        self.seen += 1
        return self.seen - 1 == self._chosen


class Head:
    """The first `count` characters of a stream of pieces. After it was iterated: its `length`, and the `rest` of the
    piece in which it ended, to be followed by `source`."""

    def __init__(self, pieces: Iterable[str], count: int) -> None:
        self.source = iter(pieces)
        self.count = count
        self.length = 0
        self.rest: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for piece in self.source:
            part = piece[: self.count - self.length]
            self.length += len(part)
            if part:
                yield part
            if len(part) < len(piece):
                self.rest = [piece[len(part) :]]
                return


def blocks(pieces: Iterable[str], size: int) -> Iterator[str]:
    """A text in blocks of at least `size` characters that end with a line, or with a word where lines are longer than
    three blocks, or anywhere where words are."""
    waiting = ""
    for piece in pieces:
        waiting += piece
        start = 0
        while len(waiting) - start > 4 * size:
            stop = block_end(waiting, start + size, start + 4 * size)
            yield waiting[start:stop]
            start = stop
        waiting = waiting[start:]
    while waiting:
        stop = block_end(waiting, size, 4 * size)
        yield waiting[:stop]
        waiting = waiting[stop:]


def block_end(text: str, low: int, high: int) -> int:
    """Where a block may end in text[low:high]: after a line break, else before a space, else at `high`."""
    line = text.find("\n", low - 1, high)
    if line >= 0:
        return line + 1
    space = text.find(" ", low, high)
    return space if space >= 0 else min(high, len(text))


def with_more(items: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each item with whether another follows."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item, True
            item = following
        yield item, False
