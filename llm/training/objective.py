"""The objective of a stage: the loss of a micro-batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from llm.config import RunConfig
from llm.model.transformer import Transformer
from llm.training import dpo, grpo
from llm.training.distributed import LossFn


class Objective(NamedTuple):
    """`loss_fn` takes `arrays` tensors with one entry per sequence and returns the mean loss, a scalar; with `metrics`,
    a vector of the loss and the mean of each metric, which have no gradient. `is_compiled`: whether torch.compile
    applies.
    """

    loss_fn: LossFn
    arrays: int = 2
    metrics: tuple[str, ...] = ()
    is_compiled: bool = True


def build_objective(model: Transformer, config: RunConfig) -> Objective:
    """The objective of the configured stage."""
    if config.tune.stage == "dpo":
        return Objective(dpo.PreferenceLoss(model, config.tune.beta), 3, dpo.METRICS, is_compiled=False)
    if config.tune.stage == "grpo":
        return Objective(grpo.GroupLoss(model, config.tune.beta), 6, grpo.METRICS, is_compiled=False)
    if config.tune.stage == "sft":
        return Objective(AnswerLoss(model), 3 if config.tune.packing == "documents" else 2)
    return Objective(model.loss)


class AnswerLoss:
    """The mean loss of the answers in rows of conversations."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def __call__(self, tokens: Tensor, targets: Tensor, positions: Tensor | None = None) -> Tensor:
        """int64 (B, T) each: inputs, targets (-1: ignored), and, if rows hold several conversations, the position of
        each token in its conversation, outside of which attention is masked."""
        return self.model.loss(tokens, targets, positions=positions, skips_ignored=True)
