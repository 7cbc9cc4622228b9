"""Small models for the tests: every axis has its own prime, so that no two can be mistaken for each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from llm.config.schema import ModelConfig
from llm.model.transformer import Transformer

BATCH, TIME = 3, 7
TINY = ModelConfig(n_layer=2, d_model=20, n_head=2, n_kv_head=1, d_ff=29, context=13, vocab_size=31)


def tiny(**changes: Any) -> ModelConfig:
    return replace(TINY, **changes)


def built(config: ModelConfig, *, seed: int = 5, attention: Any = "sdpa", spread: bool = True) -> Transformer:
    """A float64 model; with `spread` its gains, biases and zero weights are random too."""
    model = Transformer(config, attention=attention)
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


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value (or to 1e-6: a key bias without rotation has no gradient)."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-6))
