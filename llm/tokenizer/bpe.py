"""Byte-level byte-pair encoding: how the merges are learnt, and the definition of how they are applied.

Sennrich et al. 2016 (arXiv:1508.07909), on bytes as GPT-2 does (Radford et al. 2019). Text is first split into
pre-tokens by a regular expression; then the most frequent pair of neighbouring tokens is merged into a new token, again
and again. A token's id is its rank: 0 to 255 are the bytes, then the merges in the order they were learnt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise
from types import ModuleType

from llm.errors import WrongUse
from llm.tokenizer.base import Progress, well_formed

SPLIT_PATTERN = "|".join(
    [
        r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",  # English endings: it's, we'll
        r"[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]++",  # a word with the space or sign before it
        r"\p{N}{1,2}+",  # digits in pairs: a small vocabulary has no room for a thousand triples
        r" ?[^\s\p{L}\p{M}\p{N}]++[\r\n]*+",  # punctuation with the line break that follows it
        r"\s{0,63}[\r\n]",  # line breaks and the blanks before them
        r"\s{1,64}(?!\S)",  # blanks, without the last one when a word follows
        r"\s",
    ]
)
"""A split in the manner of GPT-4's (cl100k). Letters keep their combining marks, and whatever may repeat is possessive
or limited: unlimited, the regex engine of tiktoken keeps a state per character and gives up on a million spaces."""

Pair = tuple[int, int]

READING_SHARE = 0.5
"""How much of the progress bar reading the text gets; merging has the rest."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = SPLIT_PATTERN,
    progress: Progress | None = None,
    native: bool = True,
) -> list[bytes]:
    """Learn merges until there are `vocab_size` tokens, or until nothing is left to merge.

    Returns the bytes of each new token in the order of learning: token i has id 256 + i, and there are
    `vocab_size - 256` of them at most. Of equally frequent pairs the one with the smaller ids comes first, so that the
    result depends on the texts alone, not on their order. `native` uses the compiled trainer `rustbpe` where it can be
    imported; both trainers return the same list.
    """
    if vocab_size < 256:
        raise WrongUse(f"A byte-level vocabulary of {vocab_size} is too small; ask for 256 or more.")
    rustbpe = _import_rustbpe() if native else None
    texts = (well_formed(text) for text in texts)
    if rustbpe is None:
        return _train_by_hand(texts, vocab_size, pattern, progress)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts, vocab_size, pattern=pattern)
    return [bytes(token) for token, rank in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])[256:]]


def _import_rustbpe() -> ModuleType | None:
    try:
        import rustbpe
    except ImportError:
        return None
    return rustbpe  # type: ignore[no-any-return]


def _train_by_hand(texts: Iterable[str], vocab_size: int, pattern: str, progress: Progress | None) -> list[bytes]:
    words = _count_pre_tokens(texts, pattern)
    state = _Merging([list(word.encode()) for word in words], list(words.values()))
    tokens = [bytes([value]) for value in range(256)]
    while len(tokens) < vocab_size and (pair := state.most_frequent()) is not None:
        state.merge(pair, new_id=len(tokens))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        if progress:
            done = (len(tokens) - 256) / (vocab_size - 256)
            progress(READING_SHARE + (1 - READING_SHARE) * done, 1.0)
    return tokens[256:]


def _count_pre_tokens(texts: Iterable[str], pattern: str) -> Counter[str]:
    """How often each pre-token occurs: a corpus has far fewer different words than words."""
    import regex

    split = regex.compile(pattern)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(split.findall(text))
    return words


class _Merging:
    """Words as lists of ids, with the count of every neighbouring pair kept up to date while pairs are merged."""

    def __init__(self, words: list[list[int]], frequencies: list[int]) -> None:
        self._words = words
        self._frequencies = frequencies
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)  # indices of words that hold (or held) the pair
        for index in range(len(words)):
            self._add(index, sign=1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """The pair to merge next. Counts in the heap may be out of date, but only too high: they are mended here."""
        while self._heap:
            negative_count, pair = heappop(self._heap)
            count = self._counts[pair]
            if count == -negative_count:
                return pair
            if count > 0:
                heappush(self._heap, (-count, pair))
        return None

    def merge(self, pair: Pair, new_id: int) -> None:
        """Replace `pair` by `new_id` in every word, recounting only the words in which it stands."""
        born: set[Pair] = set()
        for index in self._places.pop(pair):
            self._add(index, sign=-1)
            self._words[index] = merge_pair(self._words[index], pair, new_id)
            self._add(index, sign=1)
            born.update(new for new in pairwise(self._words[index]) if new_id in new)
        # Only the counts of pairs with the new id have risen; all others in the heap are current or too high.
        for new in born:
            heappush(self._heap, (-self._counts[new], new))

    def _add(self, index: int, sign: int) -> None:
        """Count the pairs of one word in (+1) or out (-1)."""
        weight = sign * self._frequencies[index]
        for pair in pairwise(self._words[index]):
            self._counts[pair] += weight
            if sign > 0:
                self._places[pair].add(index)


def merge_pair(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """`ids` with every occurrence of `pair`, from left to right, replaced by `new_id`."""
    merged: list[int] = []
    position = 0
    while position < len(ids):
        if position + 1 < len(ids) and (ids[position], ids[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def encode_reference(text: str, ranks: Mapping[bytes, int], pattern: str) -> Iterator[int]:
    """The definition of byte-pair encoding, slow and plain: in each pre-token, join the neighbours whose union has the
    lowest rank, until no union is a token. The tokenizers use tiktoken, which is tested against this.
    """
    import regex

    for word in regex.findall(pattern, well_formed(text)):
        parts = [bytes([value]) for value in word.encode()]
        while len(parts) > 1:
            joined = [left + right for left, right in pairwise(parts)]
            best = min(range(len(joined)), key=lambda index: ranks.get(joined[index], len(ranks) + 2**32))
            if joined[best] not in ranks:
                break
            parts[best : best + 2] = [joined[best]]
        yield from (ranks[part] for part in parts)
