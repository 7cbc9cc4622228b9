"""The effect of each logits processor on one distribution, for the microscope and `sample --explain`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.sampling.filters import entropy
from llm.sampling.pipeline import LogitsPipeline, SamplingContext


@dataclass(frozen=True)
class Stage:
    """A distribution after the processor `name` ("model": before any processor).

    `top`: (token id, probability), most likely first; `kept`: number of tokens with nonzero probability.
    """

    name: str
    top: tuple[tuple[int, float], ...]
    kept: int
    entropy_bits: float


def explain(
    pipeline: LogitsPipeline, logits: Tensor, ctx: SamplingContext, *, top: int = 10, also: Sequence[int] = ()
) -> list[Stage]:
    """The distribution of one position from logits (1, V), before and after each active processor.

    Every stage lists the `top` most likely tokens after its processor and before any, so that a reader can follow them,
    and the tokens `also`.
    """
    stages = pipeline.trace(logits, ctx)
    always = torch.topk(logits[0], min(top, logits.shape[-1])).indices.tolist()
    always += [token for token in also if token not in always]
    return [_stage(name, values, always, top) for name, values in stages]


def _stage(name: str, logits: Tensor, always: list[int], top: int) -> Stage:
    log_p = torch.log_softmax(logits.double(), dim=-1)
    probabilities = log_p[0].exp()
    best = torch.topk(probabilities, min(top, len(probabilities))).indices.tolist()
    shown = [token for token in best if probabilities[token] > 0]
    shown += [token for token in always if token not in shown]
    pairs = [(token, float(probabilities[token])) for token in shown]
    return Stage(
        name,
        tuple(sorted(pairs, key=lambda pair: -pair[1])),
        int((log_p > -torch.inf).sum()),
        max(0.0, float(entropy(log_p))) / math.log(2),  # rounding can give a tiny negative value
    )
