"""Generate text with a sharded model: rank 0 samples, and every forward pass runs on all ranks, which hold the weights
together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm.device import Plan
from llm.model.transformer import Transformer
from llm.training.distributed import Ranks
from llm.training.evaluate import evaluation_mode


@torch.no_grad()
def next_token_logits(model: Transformer, plan: Plan, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Logits (B, 1, V) after texts of equal length; all ranks call it together."""
    with evaluation_mode(model), plan.autocast():
        logits: Tensor = model(torch.tensor(tokens, device=plan.device), last_only=True)
    return logits


class ShardedReader:
    """A sharded model as an `Engine` without a cache uses it, on rank 0. The others, which wait in `Ranks.broadcast`,
    call `next_token_logits` as their handler "forward"."""

    training = False

    def __init__(self, model: Transformer, plan: Plan, ranks: Ranks) -> None:
        self.model, self.plan, self.ranks = model, plan, ranks
        self.config = model.config

    @property
    def head_weight(self) -> Tensor:
        """Only its device and dtype are used."""
        return self.model.head_weight

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.model.cache_dtype

    def __call__(self, tokens: Tensor, *, last_only: bool) -> Tensor:
        """Logits (B, 1, V) after int64 tokens (B, T)."""
        assert last_only
        rows = tokens.tolist()
        return self.ranks.run_on_all("forward", lambda: next_token_logits(self.model, self.plan, rows), tokens=rows)
