"""The tokens of a prompt with their log-probabilities, collected while the prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llm.tokenizer.base import Tokenizer
from llm.tokenizer.stream import StreamDecoder


class EchoedToken(NamedTuple):
    """One token of a prompt, the whole characters it completes, and its log-probability in nats (None for the first
    token). `top`: the most likely tokens at its position, and their log-probabilities."""

    token_id: int
    text: str
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class PromptEcho:
    """Collects `tokens` block by block. `top_logprobs`: how many of the most likely tokens to report with each."""

    def __init__(self, tokenizer: Tokenizer, top_logprobs: int) -> None:
        self.tokens: list[EchoedToken] = []
        self._decoder = StreamDecoder(tokenizer)
        self._top_logprobs = top_logprobs
        self._next: Tensor | None = None

    def read(self, block: Sequence[int], logits: Tensor) -> None:
        """Add the tokens of `block` (T of them); `logits` (T, V) are those after each."""
        log_p = torch.log_softmax(logits, dim=-1)
        if self._next is None:
            first, *rest = block
            self.tokens.append(EchoedToken(first, self._decoder.feed(first), None, ()))
            before = log_p[:-1]
        else:
            rest, before = list(block), torch.cat((self._next, log_p[:-1]))
        self._next = log_p[-1:]
        logprobs = before.gather(1, torch.tensor(rest, dtype=torch.int64, device=log_p.device).unsqueeze(-1))
        values, ids = torch.topk(before, min(self._top_logprobs, log_p.shape[-1]), dim=-1)
        for token, logprob, top_ids, top_values in zip(
            rest, logprobs.squeeze(-1).tolist(), ids.tolist(), values.tolist(), strict=True
        ):
            top = tuple(zip(top_ids, top_values, strict=True))
            self.tokens.append(EchoedToken(token, self._decoder.feed(token), logprob, top))
