"""Basic layers: linear, embedding, normalizations.

Constructors leave parameters uninitialized and draw no random numbers; `Transformer.init_weights` fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """Set the kernels of `module` and of every layer inside it. Returns `module`."""
    for part in module.modules():
        if isinstance(part, Layer):
            part.kernels = kernels
    return module


@dataclass(frozen=True)
class Lora:
    """The LoRA settings of a model (`llm.model.adapters`): `scale` = α/r, the factor of BA, and the vocabulary rows
    that are trained."""

    scale: float
    rows: slice


class Adapter(Layer):
    """scale · B A x, the LoRA update of a linear layer (`llm.model.adapters`): a (rank, inputs), b (outputs, rank)."""

    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.linear(self.kernels.linear(x, self.a, None) * self.scale, self.b, None)


class TrainedRows(nn.Module):
    """Trainable values of a slice of rows of a frozen matrix; `forward` returns the matrix with these rows replaced."""

    def __init__(self, values: Tensor, rows: slice) -> None:
        super().__init__()
        self.values, self.rows = nn.Parameter(values), rows

    def forward(self, weight: Tensor) -> Tensor:
        return torch.cat([weight[: self.rows.start], self.values, weight[self.rows.stop :]])


class Linear(Layer):
    """y = x Wᵀ + b: (..., inputs) → (..., outputs). `weight` is (outputs, inputs), as in torch."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.adapter: Adapter | None = None
        self.rows: TrainedRows | None = None

    @property
    def matrix(self) -> Tensor:
        """`weight`, with the rows that are trained apart."""
        return self.weight if self.rows is None else self.rows(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.kernels.linear(x, self.matrix, self.bias)
        return y if self.adapter is None else y + self.adapter(x)


def joint_linear(layers: Sequence[Linear], x: Tensor) -> Tensor:
    """The concatenated outputs of several layers for one input: (..., inputs) → (..., sum of all outputs)."""
    y = layers[0].kernels.joint_linear(x, [layer.weight for layer in layers], [layer.bias for layer in layers])
    if all(layer.adapter is None for layer in layers):
        return y
    parts = y.split([len(layer.weight) for layer in layers], dim=-1)
    outputs = [
        part if layer.adapter is None else part + layer.adapter(x) for layer, part in zip(layers, parts, strict=True)
    ]
    return torch.cat(outputs, dim=-1)


class Embedding(Layer):
    """The row of `weight` (rows, width) of each id: int64 (...) → (..., width)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.rows: TrainedRows | None = None

    @property
    def matrix(self) -> Tensor:
        """`weight`, with the rows that are trained apart."""
        return self.weight if self.rows is None else self.rows(self.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embedding(ids, self.matrix)


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
