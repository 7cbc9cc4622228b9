"""The arithmetic of the model in two sets of functions: written out (`REFERENCE`) and PyTorch's fused ones (`FUSED`).

`REFERENCE` is the definition, `FUSED` the fast path; tests/model/test_kernels.py compares them.

Shapes: B batch, T query positions, S key positions, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.activations import at_least_float32, gelu_for_training, swiglu_for_training
from llm.model.blockwise import blockwise_attention
from llm.model.embedding import deterministic_embedding

Pairs = Literal["even-odd", "halves"]
"""Which coordinates of a head are rotated together: 2i and 2i+1 (RoFormer, GPT-J), or i and i + D/2 (GPT-NeoX, Llama in
transformers)."""


@dataclass(frozen=True)
class Kernels:
    """One implementation of every operation of the layers."""

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    joint_linear: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor | None]], Tensor]
    embedding: Callable[[Tensor, Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor | None, float], Tensor]
    layer_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    swiglu: Callable[[Tensor], Tensor]
    gelu: Callable[[Tensor], Tensor]
    gelu_exact: Callable[[Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor, Pairs], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b: x (..., in), weight (out, in), bias (out) → (..., out)."""
    y = x @ weight.mT
    return y if bias is None else y + bias.to(y.dtype)


def joint_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """The outputs of `linear` for each matrix, concatenated: x (..., in), weights (out, in) → (..., sum of all out).
    All biases are None, or none is."""
    return torch.cat([linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)], dim=-1)


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Row `tokens[...]` of weight (rows, width): int64 (...) → (..., width)."""
    return weight[tokens]


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """x / √(mean x² + ε) · gain over the last axis, in float32 or wider (Zhang & Sennrich 2019, eq. 4)."""
    wide = at_least_float32(x)
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if gain is None else y * gain).to(x.dtype)


def layer_norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x − mean) / √(variance + ε) · gain + bias over the last axis, in float32 or wider (Ba et al. 2016, eq. 3)."""
    wide = at_least_float32(x)
    centered = wide - wide.mean(-1, keepdim=True)
    y = centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    y = y if gain is None else y * gain
    return (y if bias is None else y + bias).to(x.dtype)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / Σ exp(x) over the last axis, shifted by its maximum to avoid overflow; float32 or wider."""
    wide = at_least_float32(x)
    exponential = torch.exp(wide - wide.amax(-1, keepdim=True))
    return exponential / exponential.sum(-1, keepdim=True)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate)·up of x = (gate, up): (..., 2F) → (..., F), with silu(x) = x·σ(x) (Shazeer 2020, eq. 6)."""
    gate, up = x.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def gelu(x: Tensor) -> Tensor:
    """GELU by the tanh approximation, as in GPT-2 (Hendrycks & Gimpel 2016, section 2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_exact(x: Tensor) -> Tensor:
    """x·Φ(x), with Φ the normal distribution function (Hendrycks & Gimpel 2016, eq. 2), as in nanoGPT."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: Pairs) -> Tensor:
    """Rotate each pair of coordinates of x (..., T, D) by its position's angle (Su et al. 2021, eq. 34).

    cos and sin are (T, D/2) or (B, 1, T, D/2). Computed in the wider dtype of x and the tables; the result has the
    dtype of x.
    """
    if pairs == "halves":
        first, second = x.chunk(2, dim=-1)
        rotated = torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
    else:
        first, second = x[..., 0::2], x[..., 1::2]
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
    return rotated.to(x.dtype)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool (T, S): True where query i, at position S−T+i, may attend to key j: j ≤ S−T+i."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, attn_mask: Tensor | None = None) -> Tensor:
    """Causal softmax(QKᵀ/√D)·V (Vaswani et al. 2017, eq. 1), with each key/value head shared by H/G query heads.

    query (B, H, T, D), key and value (B, G, S, D) → (B, H, T, D). The queries are the last T of S positions.
    `attn_mask` replaces the causal mask: bool, broadcastable to (B, H, T, S), True where a query attends to a key.
    """
    group_size = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group_size, dim=1), value.repeat_interleave(group_size, dim=1)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    attn_mask = causal_mask(query.shape[2], key.shape[2], query.device) if attn_mask is None else attn_mask
    weights = softmax(scores.masked_fill(~attn_mask, -math.inf))
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights.to(value.dtype) @ value


def fused_joint_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """`joint_linear` as one matrix product, which reads x and writes its gradient once.

    If x has fewer rows than columns, as in decoding, the products stay separate: concatenating the matrices would cost
    more than it saves.
    """
    if x.numel() < x.shape[-1] ** 2:
        parts = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        return torch.cat(parts, dim=-1)
    joined = [bias for bias in biases if bias is not None]
    return F.linear(x, torch.cat(list(weights)), torch.cat(joined) if joined else None)


def fused_embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """`embedding`, with a deterministic gradient also when compiled for a CPU (`llm.model.embedding`)."""
    if torch.compiler.is_compiling() and weight.device.type == "cpu":
        return deterministic_embedding(tokens, weight)
    return F.embedding(tokens, weight)


def fused_rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """`rms_norm`; PyTorch computes it in float32 internally if x is narrower."""
    return F.rms_norm(x, x.shape[-1:], gain, eps)


def fused_layer_norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`layer_norm`; PyTorch computes it in float32 internally if x is narrower."""
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def fused_gelu(x: Tensor) -> Tensor:
    return gelu_for_training(x) if trains_on_cpu(x) else F.gelu(x, approximate="tanh")


def fused_swiglu(x: Tensor) -> Tensor:
    if trains_on_cpu(x):
        return swiglu_for_training(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def trains_on_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU and requires a gradient, in eager mode."""
    return x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling()


def fused_rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: Pairs) -> Tensor:
    """`rotate`; "even-odd" pairs as a product of complex numbers, which takes a third of the time.

    torch.compile fuses the written-out form but not complex operations; MPS lacks some of them.
    """
    if pairs == "halves" or x.device.type == "mps" or torch.compiler.is_compiling():
        return rotate(x, cos, sin, pairs)
    points = torch.view_as_complex(at_least_float32(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(points * torch.complex(cos, sin)).flatten(-2).to(x.dtype)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, attn_mask: Tensor | None = None
) -> Tensor:
    """`attention` by PyTorch's scaled_dot_product_attention, or by `llm.model.blockwise` for eager training on a CPU in
    bfloat16 or with dropout, without `attn_mask`."""
    queries, keys = query.shape[2], key.shape[2]
    trains = query.requires_grad and 1 < queries == keys and attn_mask is None
    is_blockwise = trains and query.device.type == "cpu" and (dropout > 0 or query.dtype == torch.bfloat16)
    if is_blockwise and not torch.compiler.is_compiling():
        return blockwise_attention(query, key, value, dropout)
    if attn_mask is None and 1 < queries < keys:
        attn_mask = causal_mask(queries, keys, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attn_mask,
        dropout_p=dropout,
        is_causal=attn_mask is None and queries > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


REFERENCE = Kernels(
    linear=linear,
    joint_linear=joint_linear,
    embedding=embedding,
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    swiglu=swiglu,
    gelu=gelu,
    gelu_exact=gelu_exact,
    rotate=rotate,
    attention=attention,
)
FUSED = Kernels(
    linear=F.linear,
    joint_linear=fused_joint_linear,
    embedding=fused_embedding,
    rms_norm=fused_rms_norm,
    layer_norm=fused_layer_norm,
    swiglu=fused_swiglu,
    gelu=fused_gelu,
    gelu_exact=F.gelu,
    rotate=fused_rotate,
    attention=fused_attention,
)
KERNELS = {"fused": FUSED, "reference": REFERENCE}
"""The kernels for each value of `train.kernels`."""
