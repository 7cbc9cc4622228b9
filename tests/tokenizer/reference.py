"""Byte-pair encoding written out step by step, the reference of the fast encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import regex

from llm.tokenizer.base import well_formed


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
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
    """In each pre-token, join the neighbors whose union has
    the lowest rank, until no union is a token."""
    for word in regex.findall(pattern, well_formed(text)):
        parts = [bytes([value]) for value in word.encode()]
        while len(parts) > 1:
            joined = [left + right for left, right in pairwise(parts)]
            best = min(range(len(joined)), key=lambda index: ranks.get(joined[index], len(ranks) + 2**32))
            if joined[best] not in ranks:
                break
            parts[best : best + 2] = [joined[best]]
        yield from (ranks[part] for part in parts)
