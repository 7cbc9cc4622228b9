"""Training of byte-level byte-pair encoding (BPE).

Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in GPT-2 (Radford et al. 2019). A regular expression splits text
into pre-tokens; then the most frequent pair of adjacent tokens is merged into a new token, repeatedly. A token's id is
its rank: 0 to 255 are the bytes, then the merges in the order of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType

from llm.errors import WrongUse
from llm.tokenizer.base import Progress, well_formed
from llm.tokenizer.merging import Ties, learn_merges
from llm.tokenizer.patterns import OWN_PATTERN
from llm.tokenizer.special_tokens import special_pattern

SPLIT_PATTERN = OWN_PATTERN
Merge = tuple[bytes, bytes]

COUNTING_SHARE = 0.3
"""The fraction of the progress that counting pre-tokens takes; merging takes the rest."""

LONG_PRE_TOKEN = 200
"""Bytes. rustbpe rewrites a whole pre-token at each merge. For longer pre-tokens (text without spaces), the Python
trainer is faster, and it reports progress."""

PROBED_CHARACTERS = 1 << 16


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = SPLIT_PATTERN,
    ties: Ties = "ids",
    special_tokens: Sequence[str] = (),
    progress: Progress | None = None,
    native: bool = True,
) -> list[bytes]:
    """Train merges until there are `vocab_size` tokens, or nothing is left to merge.

    Returns the bytes of each new token in training order, at most `vocab_size - 256`; token i has id 256 + i. Among
    equally frequent pairs, the one with smaller ids is merged (ties "ids"), or the one with greater bytes, as in CS336
    (ties "bytes"), so the result does not depend on the order of the texts. The text of `special_tokens` is removed
    first, and no merge crosses its place. With `native`, the compiled trainer `rustbpe` is used if it is installed and
    suitable; both trainers return the same list. WrongUse if `vocab_size` is below 256.
    """
    if vocab_size < 256:
        raise WrongUse(f"A byte-level vocabulary of {vocab_size} is too small; ask for 256 or more.")
    texts_to_count = list(_split_at(special_tokens, (well_formed(text) for text in texts)))
    rustbpe = _import_rustbpe() if native and ties == "ids" else None
    if rustbpe is None or _has_long_pre_tokens(texts_to_count, pattern):
        return [left + right for left, right in _train_in_python(texts_to_count, vocab_size, pattern, ties, progress)]
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts_to_count), vocab_size, pattern=pattern)
    return [bytes(token) for token, rank in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])[256:]]


def train_merges(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = SPLIT_PATTERN,
    ties: Ties = "ids",
) -> list[Merge]:
    """`train_bpe` in Python, which returns the merges as (left token, right token) in training order."""
    if vocab_size < 256:
        raise WrongUse(f"A byte-level vocabulary of {vocab_size} is too small; ask for 256 or more.")
    return _train_in_python([well_formed(text) for text in texts], vocab_size, pattern, ties, None)


def _split_at(special_tokens: Sequence[str], texts: Iterable[str]) -> Iterator[str]:
    """The stretches of `texts` between special tokens."""
    pattern = special_pattern(special_tokens)
    if pattern is None:
        yield from texts
        return
    for text in texts:
        yield from filter(None, pattern.split(text)[::2])  # the pattern is one group, so its matches have odd indices


def _has_long_pre_tokens(texts: Sequence[str], pattern: str) -> bool:
    """Whether the average byte of `texts` is in a long pre-token, judged by the middle text."""
    import regex

    probe = texts[len(texts) // 2][:PROBED_CHARACTERS] if texts else ""
    lengths = [len(match.group().encode()) for match in regex.finditer(pattern, probe)]
    return bool(lengths) and sum(size * size for size in lengths) / sum(lengths) > LONG_PRE_TOKEN


def _import_rustbpe() -> ModuleType | None:
    try:
        import rustbpe
    except ImportError:
        return None
    return rustbpe  # type: ignore[no-any-return]


def _train_in_python(
    texts: Sequence[str], vocab_size: int, pattern: str, ties: Ties, progress: Progress | None
) -> list[Merge]:
    wanted = vocab_size - 256

    def report_counted(done: int) -> None:
        if progress:
            progress(COUNTING_SHARE * done / len(texts), 1.0)

    def report(done: int) -> None:
        if progress:
            progress(COUNTING_SHARE + (1 - COUNTING_SHARE) * done / wanted, 1.0)

    words = {word.encode(): count for word, count in _count_pre_tokens(texts, pattern, report_counted).items()}

    tokens = [bytes([value]) for value in range(256)]
    merges: list[Merge] = []
    for left, right in learn_merges(words, wanted, ties, report):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return merges


def _count_pre_tokens(texts: Sequence[str], pattern: str, report: Callable[[int], None]) -> Counter[str]:
    import regex

    find = regex.compile(pattern).finditer
    words: Counter[str] = Counter()
    for number, text in enumerate(texts, 1):
        words.update(match.group() for match in find(text))
        report(number)
    return words
