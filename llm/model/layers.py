"""Basic layers: linear, embedding, normalizations.

Their parameters are uninitialized, so that building a model draws no random numbers; `Transformer.init_weights` fills
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from llm.config.schema import ModelConfig
from llm.model.kernels import FUSED, Kernels

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Layer(nn.Module):
    """A module that computes with `kernels`, which `use_kernels` sets."""

    kernels: Kernels = FUSED


def use_kernels(module: AnyModule, kernels: Kernels) -> AnyModule:
    """Compute with `kernels` in `module` and in every layer inside it. Returns `module`."""
    for part in module.modules():
        if isinstance(part, Layer):
            part.kernels = kernels
    return module


class Linear(Layer):
    """y = x Wᵀ + b: (..., inputs) → (..., outputs). `weight` is (outputs, inputs), as in torch."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.linear(x, self.weight, self.bias)


def joint_linear(layers: Sequence[Linear], x: Tensor) -> Tensor:
    """The results of several layers for one input, side by side: (..., inputs) → (..., sum of all outputs)."""
    return layers[0].kernels.joint_linear(x, [layer.weight for layer in layers], [layer.bias for layer in layers])


class Embedding(Layer):
    """The row of `weight` (rows, width) of each id: int64 (...) → (..., width)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embedding(ids, self.weight)


class RMSNorm(Layer):
    """x divided by its root mean square over the last axis, computed in float32 or wider."""

    def __init__(self, width: int, *, eps: float, gain: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width)) if gain else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.gain, self.eps)


class LayerNorm(Layer):
    """x normalized to zero mean and unit variance over the last axis, computed in float32 or wider."""

    def __init__(self, width: int, *, eps: float, gain: bool, bias: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width)) if gain else None
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.layer_norm(x, self.gain, self.bias, self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    """The configured normalization of the residual stream."""
    if config.norm == "layernorm":
        return LayerNorm(config.d_model, eps=config.norm_eps, gain=config.norm_gain, bias=config.bias)
    return RMSNorm(config.d_model, eps=config.norm_eps, gain=config.norm_gain)
