"""Small models for the tests: every axis has another prime as its size, so that mixed-up axes are errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from llm.config.schema import ModelConfig
from llm.model.transformer import Transformer

BATCH, TIME = 3, 7
GRADIENT_SHARE = 1e-3
"""A tensor whose gradients are smaller than this share of the model's largest is compared on that scale: without
rotation the gradient of a key's bias is only rounding."""
TINY = ModelConfig(n_layer=2, d_model=20, n_head=2, n_kv_head=1, d_ff=29, context=13, vocab_size=31)


def tiny(**changes: Any) -> ModelConfig:
    return replace(TINY, **changes)


def built(config: ModelConfig, *, seed: int = 5, kernels: Any = "fused", spread: bool = True) -> Transformer:
    """A float64 model; `spread` also randomizes gains, biases and zero weights."""
    model = Transformer(config, kernels=kernels)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    model = model.double()
    if spread:
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise, alpha=0.2)
    return model


def tokens(config: ModelConfig, batch: int = BATCH, time: int = TIME, seed: int = 11) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def relative_error(a: torch.Tensor, b: torch.Tensor, scale: float = 0.0) -> float:
    """Largest difference, relative to the largest value of `b` or to `scale`, whichever is larger; 0 for equal tensors.

    `scale` is the size of the summands of a result that may cancel to about 0, relative to which any rounding would be
    a large error.
    """
    a, b = a.detach(), b.detach()
    difference = float((a - b).abs().max())
    return difference / max(float(b.abs().max()), scale) if difference else 0.0


def largest_value(tensors: Iterable[torch.Tensor]) -> float:
    """The largest absolute value in any of `tensors`."""
    return max(float(tensor.detach().abs().max()) for tensor in tensors)
