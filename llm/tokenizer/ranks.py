"""Byte-level BPE from a table of ranks, encoded by tiktoken: trained tokenizers, tiktoken encodings, GPT-2 files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import tiktoken

from llm.limits import usable_cores
from llm.reader import read_bytes
from llm.tokenizer.base import BaseTokenizer, Ids
from llm.tokenizer.cuts import FindCut, last_safe_cut, no_cut
from llm.tokenizer.patterns import GPT2_PATTERN, KNOWN_PATTERNS, compile_pattern
from llm.tokenizer.saved import RANKS, dump_ranks, parse_ranks, read_special_tokens
from llm.tokenizer.special_tokens import with_special_tokens

Token = TypeVar("Token", bytes, str)

Normalization = Literal["", "NFC"]
"""The Unicode normalization form of encoded text; "" for none. NFKC is not supported, because its result depends on the
version of Unicode: the package `tokenizers` and Python map 72 characters differently."""

MAX_TABLE_BYTES = 64 << 20
LONGEST_BLANK = 500_000
"""The longest run of whitespace that is encoded at once: near a million, tiktoken's regex engine fails with the
patterns of GPT-2 and GPT-4. Longer runs are cut; only there do ids differ from tiktoken's, which raises an error."""


class RankTokenizer(BaseTokenizer):
    """Byte-level BPE. `ranks` maps the bytes of a token to its id; of the possible merges, that with the lowest id is
    applied first. Only imported tokenizers have a `normalization`.
    """

    def __init__(
        self,
        kind: str,
        ranks: Mapping[bytes, int],
        special_tokens: Mapping[str, int],
        pattern: str,
        normalization: Normalization = "",
    ) -> None:
        """ValueError if `ranks` lacks a byte, two tokens share an id, or the pattern or normalization is invalid."""
        check_pattern(pattern)
        if normalization not in get_args(Normalization):
            raise ValueError(f"its normalization {normalization!r} is unknown")
        self.normalization: Normalization = normalization
        self.kind = kind
        self.pattern = pattern
        self.ranks = dict(ranks)
        table = _table(self.ranks, special_tokens)
        super().__init__(table, special_tokens)
        # Special tokens are found here and not by tiktoken, whose choice between overlapping ones is arbitrary.
        self._encoding = tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=self.ranks, special_tokens={})
        self._long_blank = re.compile(rf"\s{{{LONGEST_BLANK}}}")

    @classmethod
    def from_saved(cls, record: Mapping[str, Any], directory: Path) -> RankTokenizer:
        content = read_bytes(directory / RANKS, MAX_TABLE_BYTES)
        if hashlib.sha256(content).hexdigest() != record["ranks_sha256"]:
            raise ValueError(f"{RANKS} is not the table it was saved with")
        special_tokens, normalization = read_special_tokens(record), record.get("normalization", "")
        return cls(record["kind"], parse_ranks(content), special_tokens, record["pattern"], normalization)

    @classmethod
    def from_merges(
        cls,
        vocabulary: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] = (),
        pattern: str = GPT2_PATTERN,
    ) -> RankTokenizer:
        """A tokenizer from a vocabulary (id -> bytes) and its merges in order, as from `train_merges` or GPT-2's files.

        Entries that are neither a byte nor the result of a merge are special tokens; missing `special_tokens` get the
        next ids. ValueError as in `check_merges`.
        """
        ids = {token: token_id for token_id, token in sorted(vocabulary.items(), reverse=True)}
        single = [bytes([value]) for value in range(256)]
        merged = list(dict.fromkeys(left + right for left, right in merges))
        check_merges(ids, single, merged)
        ranks = {token: ids[token] for token in [*single, *merged]}
        defined = {token.decode(): token_id for token, token_id in ids.items() if token not in ranks}
        specials = with_special_tokens(defined, special_tokens, max(vocabulary) + 1)
        return cls("bpe", ranks, specials, pattern)

    def find_cut(self) -> FindCut:
        # A normalization may join characters on both sides of a cut.
        return last_safe_cut if self.pattern in KNOWN_PATTERNS and not self.normalization else no_cut

    def encode_ordinary(self, text: str) -> list[int]:
        parts = self._parts(self._normalize(text))
        return [token_id for part in parts for token_id in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> list[Ids]:
        count = min(threads or usable_cores(), len(texts))
        if count <= 1:
            return super().encode_batch(texts)
        # Not tiktoken's encode_to_numpy: without special tokens it is slower than this (tiktoken 0.14.0,
        # findings/tiktoken-encode-to-numpy-is-slower.sh).
        with ThreadPoolExecutor(count) as pool:
            return [np.array(ids, dtype=np.uint32) for ids in pool.map(self.encode_ordinary, texts)]

    def _parts(self, text: str) -> list[str]:
        """`text`, cut after runs of `LONGEST_BLANK` characters."""
        ends = [blank.end() for blank in self._long_blank.finditer(text)] if len(text) > LONGEST_BLANK else []
        return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]

    def _normalize(self, text: str) -> str:
        return unicodedata.normalize(self.normalization, text) if self.normalization else text

    def text_changes(self, *, bytes_known: bool = True) -> str:
        if not self.normalization:
            return ""
        counted = f"the {'original' if bytes_known else 'normalized'} text"
        return f"The tokenizer normalizes text to {self.normalization}. Bits per byte count the bytes of {counted}."

    def prompt_changes(self, prompt: str) -> str:
        if self._normalize(prompt) == prompt:
            return ""
        return f"The tokenizer normalizes the prompt to {self.normalization}."

    def record(self) -> dict[str, Any]:
        record = {
            "special_tokens": dict(self.special_tokens),
            "pattern": self.pattern,
            "ranks_sha256": hashlib.sha256(self._content).hexdigest(),
        }
        return record | ({"normalization": self.normalization} if self.normalization else {})

    def files(self) -> dict[str, bytes]:
        return {RANKS: self._content}

    @cached_property
    def _content(self) -> bytes:
        return dump_ranks(self.ranks)


def check_pattern(pattern: str) -> None:
    """ValueError if a pattern is not a regular expression, or matches the empty text."""
    import regex

    try:
        compile_pattern(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"its pattern is not a regular expression ({error})") from None


def check_merges(ids: Mapping[Token, int], single: Iterable[Token], merged: Sequence[Token]) -> None:
    """ValueError if a single byte or the result of a merge has no id, or if ids do not rise in the order of the merges.

    Encoding by rank requires both. Tokens are bytes, or GPT-2's printable characters for them.
    """
    for token in [*single, *merged]:
        if token not in ids:
            raise ValueError(f"the token {token!r} of the merges is not in the vocabulary")
    for earlier, later in pairwise(merged):
        if ids[earlier] >= ids[later]:
            raise ValueError(f"the id of {later!r} is out of the order of the merges")


def _table(ranks: Mapping[bytes, int], special_tokens: Mapping[str, int]) -> list[bytes]:
    """Bytes by id; empty for special tokens and unused ids."""
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise ValueError(f"there is no token for the byte {missing[0]}")
    ids = [*ranks.values(), *special_tokens.values()]
    if min(ids) < 0 or len(set(ids)) != len(ids):
        raise ValueError("two tokens share an id, or one is negative")
    if max(ids) > 2 * len(ids) + 1000:  # a damaged id could take any amount of memory
        raise ValueError(f"the id {max(ids)} is out of proportion to {len(ids)} tokens")
    table = [b""] * (max(ids) + 1)
    for token, rank in ranks.items():
        table[rank] = token
    return table
