"""Many prompts at once: those of equal length are read and continued side by side, each as it would be alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.config.schema import DecodeConfig
from llm.engine.reader import Reader
from llm.engine.reply import Done, Piece, Reason, Reply, Sample
from llm.model.counts import kv_cache_bytes
from llm.model.packed import ReadingModel
from llm.sampling import Uniforms, Vocabulary

MOST_ROWS = 32
CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Completion:
    """What was written on from one prompt: text and reason per sample, and the new tokens of all samples."""

    texts: tuple[str, ...]
    reasons: tuple[Reason, ...]
    tokens: int
    prompt_tokens: int

    @classmethod
    def of(cls, reply: Iterable[Piece | Done]) -> Completion:
        """What a reply to one prompt comes to."""
        *pieces, done = reply
        assert isinstance(done, Done), "a reply ends with Done"
        texts = [""] * len(done.reasons)
        for piece in pieces:
            assert isinstance(piece, Piece)
            texts[piece.sample] += piece.text
        return cls(tuple(texts), done.reasons, done.tokens, done.prompt_tokens)


class BatchReply(Reply):
    """Replies to several prompts of equal length; rows 0 .. num_samples−1 are of the first prompt, and so on."""

    def __init__(
        self,
        reader: Reader,
        vocabulary: Vocabulary,
        prompts: Sequence[Sequence[int]],
        params: DecodeConfig,
        num_samples: int,
    ) -> None:
        rows = [prompt for prompt in prompts for _ in range(num_samples)]
        super().__init__(reader, vocabulary, prompts[0], params, len(rows))
        self._samples = [Sample(vocabulary.tokenizer, row, params) for row in rows]
        self._tokens = torch.tensor([list(row) for row in rows], device=vocabulary.device)
        self._uniforms = Uniforms(params.seed, num_samples, vocabulary.device, copies=len(prompts))

    def completions(self, num_samples: int) -> list[Completion]:
        """Write all rows to their ends; one result per prompt."""
        whole = Completion.of(self.run(lambda: False, lambda: self._params))
        found = []
        for first in range(0, len(whole.texts), num_samples):
            mine = slice(first, first + num_samples)
            tokens = sum(sample.tokens for sample in self._samples[mine])
            found.append(Completion(whole.texts[mine], whole.reasons[mine], tokens, whole.prompt_tokens))
        return found

    def _read_prompt(self, cancel: Callable[[], bool]) -> Tensor:
        return self._reader.read(self._tokens, self._start, cancel)


def groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of prompts of equal length, at most `most` together."""
    found: list[list[int]] = []
    for length in sorted(set(lengths)):
        alike = [index for index, other in enumerate(lengths) if other == length]
        found += [alike[start : start + most] for start in range(0, len(alike), most)]
    return found


def prompts_at_once(model: ReadingModel, num_samples: int) -> int:
    """How many prompts may be continued side by side, for the memory of their keys and values."""
    each = num_samples * kv_cache_bytes(model.config, bytes_per_number=model.cache_dtype.itemsize)
    return max(1, min(MOST_ROWS // num_samples, CACHE_BYTES // each))
