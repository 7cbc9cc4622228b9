"""Complete many prompts at once: prompts of equal length share a batch, and each gets the same text as alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm.engine.reply import Done, Piece, Reason
from llm.model.counts import kv_cache_bytes
from llm.model.packed import InferenceModel

MAX_ROWS = 32
CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Completion:
    """The generated text of one prompt: text and reason per sample, and the number of new tokens of all samples."""

    texts: tuple[str, ...]
    reasons: tuple[Reason, ...]
    tokens: int
    prompt_tokens: int

    @classmethod
    def from_reply(cls, reply: Iterable[Piece | Done], prompts: int = 1) -> list[Completion]:
        """Collect a reply to `prompts` prompts, whose rows are ordered by prompt: one completion per prompt."""
        *pieces, done = reply
        assert isinstance(done, Done), "a reply ends with Done"
        texts, tokens = [""] * len(done.reasons), [0] * len(done.reasons)
        for piece in pieces:
            assert isinstance(piece, Piece)
            texts[piece.sample] += piece.text
            tokens[piece.sample] += piece.token_id is not None
        rows = len(texts) // prompts
        slices = [slice(first, first + rows) for first in range(0, len(texts), rows)]
        return [cls(tuple(texts[one]), done.reasons[one], sum(tokens[one]), done.prompt_tokens) for one in slices]


def group_by_length(lengths: Sequence[int], max_prompts: int) -> list[list[int]]:
    """Indices of prompts of equal length, at most `max_prompts` per group."""
    groups: list[list[int]] = []
    for length in sorted(set(lengths)):
        alike = [index for index, other in enumerate(lengths) if other == length]
        groups += [alike[start : start + max_prompts] for start in range(0, len(alike), max_prompts)]
    return groups


def max_batch_prompts(model: InferenceModel, num_samples: int) -> int:
    """How many prompts fit into one batch: limited by rows and by the memory of their KV cache."""
    prompt_bytes = num_samples * kv_cache_bytes(model.config, bytes_per_number=model.cache_dtype.itemsize)
    return max(1, min(MAX_ROWS // num_samples, CACHE_BYTES // prompt_bytes))
