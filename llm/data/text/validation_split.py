"""The split of a corpus into training and validation text."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm.config.schema import DataConfig
from llm.data.text.corpora import Corpus

MAX_BLOCK = 1 << 16  # sixteen per batch of the tokenizer, which may encode them on as many threads
MIN_BLOCK = 16


class Unit(NamedTuple):
    """A part of one document, all of it in one split."""

    is_validation: bool
    starts_document: bool
    ends_document: bool
    pieces: Iterable[str]


def units(corpus: Corpus, data: DataConfig, characters: int = 0) -> Iterator[Unit]:
    """The corpus in order, each unit assigned to a split.

    documents: validation is whole documents, evenly spread; a document larger than half of the validation text is cut
    into blocks at line breaks first. tail: validation is everything after the first (1 - fraction) of `characters`.
    """
    if data.split == "tail":
        return tail_units(corpus, int((1 - data.validation_fraction) * characters))
    return spread_units(corpus, data.validation_fraction)


def count_characters(corpus: Corpus) -> int:
    return sum(len(piece) for document in corpus.documents() for piece in document.pieces)


def spread_units(corpus: Corpus, fraction: float) -> Iterator[Unit]:
    wanted = corpus.size_bytes * fraction
    block_size = int(min(max(wanted / 8, MIN_BLOCK), MAX_BLOCK))
    spread = Spread(fraction)
    for document in corpus.documents():
        if document.size_bytes <= wanted / 2:
            yield Unit(spread.choose_next(), True, True, document.pieces)
            continue
        starts_document = True
        for block, more in with_more(blocks(document.pieces, block_size)):
            yield Unit(spread.choose_next(), starts_document, not more, (block,))
            starts_document = False


def tail_units(corpus: Corpus, cut: int) -> Iterator[Unit]:
    count = 0
    for document in corpus.documents():
        if count >= cut:
            yield Unit(True, True, True, document.pieces)
            continue
        head = Head(document.pieces, cut - count)
        yield Unit(False, True, True, head)
        count += head.length
        if head.rest:
            yield Unit(True, False, True, itertools.chain(head.rest, head.source))


class Spread:
    """Chooses a share of a stream of items: one, chosen by a hash, of every 1/fraction consecutive items.

    Evenly spread, but not at equal distances, which would bias the split of a periodic corpus.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self._items = 0
        self._stratum = self._end = 0
        self._chosen = -1

    def choose_next(self) -> bool:
        """Whether the next item is chosen."""
        if self._items == self._end:
            self._stratum += 1
            self._end = math.ceil(self._stratum / self.fraction)
            mark = hashlib.blake2b(b"%d" % self._stratum, digest_size=8).digest()
            self._chosen = self._items + int.from_bytes(mark, "little") % (self._end - self._items)
        self._items += 1
        return self._items - 1 == self._chosen


class Head:
    """The first `count` characters of a stream of pieces. After iteration, `length` is their number; the `rest` of the
    last piece and then `source` are what follows."""

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
    """A text in blocks of at least `size` characters. They end with a line; with a word if lines are longer than three
    blocks; anywhere if words are."""
    buffered = ""
    for piece in pieces:
        buffered += piece
        start = 0
        while len(buffered) - start > 4 * size:
            stop = block_end(buffered, start + size, start + 4 * size)
            yield buffered[start:stop]
            start = stop
        buffered = buffered[start:]
    while buffered:
        stop = block_end(buffered, size, 4 * size)
        yield buffered[:stop]
        buffered = buffered[stop:]


def block_end(text: str, low: int, high: int) -> int:
    """The end of a block in text[low:high]: after a line break, else before a space, else at `high`."""
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
