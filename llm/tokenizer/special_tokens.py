"""Special tokens: their ids, and a pattern that finds them in text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from llm.errors import WrongUse


def special_pattern(special_tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern with one group that matches a special token; None without any.

    If several special tokens match at the same place, the longest one counts. ValueError for text that UTF-8 cannot
    hold, which could not be saved.
    """
    for text in special_tokens:
        text.encode()
    alternatives = sorted(special_tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, alternatives)) + ")") if alternatives else None


def number_special_tokens(texts: Sequence[str], first_id: int) -> dict[str, int]:
    """Ids of special tokens in order, from `first_id` on. WrongUse for empty and repeated ones."""
    for position, text in enumerate(texts):
        if not text:
            raise WrongUse("A special token is empty; give it a text such as <|endoftext|>.")
        if text in texts[:position]:
            raise WrongUse(f"The special token {text!r} is listed twice; list each one once.")
    return {text: first_id + position for position, text in enumerate(texts)}


def with_special_tokens(defined: Mapping[str, int], wanted: Sequence[str], next_id: int) -> dict[str, int]:
    """The special tokens of a vocabulary, the `wanted` ones first; those it lacks get ids from `next_id` on."""
    added = number_special_tokens([text for text in wanted if text not in defined], next_id)
    ids = {**defined, **added}
    return {text: ids[text] for text in wanted} | ids
