"""A model laid out for reading: matrices in the order in which the CPU's matrix-vector product takes them.

Writing one token reads every weight once, and waits for memory. Rearranged once, matrices are read in one sweep: on an
AVX-512 CPU of 2024 a bfloat16 product takes a third to a half of `F.linear`'s time, a float32 one two thirds. Row i of
a product has the same bits whatever rows and however many threads are beside it (tests/model/test_packed.py), which
`F.linear` does not promise.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config.schema import ModelConfig
from llm.model.attention import Attention
from llm.model.kernels import FUSED
from llm.model.layers import Embedding, Linear
from llm.model.mlp import FeedForward
from llm.model.transformer import Transformer


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch can rearrange matrices of this kind here: oneDNN on an x86 CPU with the instructions for it."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())


def pack(weight: Tensor) -> Tensor:
    """An opaque copy of a matrix (outputs, inputs), which only `packed_linear` reads."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return packed


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b with a packed W, multiplied in W's dtype: (..., inputs) → (..., outputs) in that of x."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")
    return y.to(x.dtype)


def widened_embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Row `tokens[...]` of weight (rows, width), in float32: int64 (...) → (..., width)."""
    return F.embedding(tokens, weight).float()


PACKED = replace(FUSED, linear=packed_linear, embedding=widened_embedding)


class PackedAttention(Attention):
    """`Attention` with one matrix, `q`, for queries, keys and values."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer, PACKED)
        del self.k, self.v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width, kv_width = self.n_head * self.head_dim, self.n_kv_head * self.head_dim
        queries, keys, values = self.q(x).split([width, kv_width, kv_width], dim=-1)
        return queries, keys, values


class PackedFeedForward(FeedForward):
    """`FeedForward` with one matrix, `up`, into the hidden layer, the gate's rows first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, PACKED)
        self.gated, self.gate = self.gate is not None, None

    def widen(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        gate, hidden = self.up(x).chunk(2, dim=-1) if self.gated else (None, self.up(x))
        return gate, hidden


JOINED = {"attn.q": ("attn.q", "attn.k", "attn.v"), "mlp.up": ("mlp.gate", "mlp.up")}
"""Matrices that a packed model has as one, under the name it has them by."""


def join(weights: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """`weights` with those of `JOINED` as one, row upon row; what a model lacks is left alone."""
    for layer, (name, parts), kind in product(range(n_layer), JOINED.items(), ("weight", "bias")):
        keys = [f"blocks.{layer}.{part}.{kind}" for part in parts]
        if all(key in weights for key in keys):
            weights[f"blocks.{layer}.{name}.{kind}"] = torch.cat([weights[key] for key in keys])
    return weights


class PackedTransformer(Transformer):
    """A `Transformer` to read texts with: matrices and embeddings in `dtype`, packed, and all else in float32.

    In bfloat16 the logits are rounded to 8 bits before they are widened, as is usual: a float32 head alone would cost a
    124M model a third of its speed. The head is a matrix of its own also where the model's is tied, for an embedding
    cannot be packed. There is no loss: that takes the head apart.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__(replace(model.config, tied_head=False, dropout=0.0))
        for layer, block in enumerate(self.blocks):
            block.attn, block.mlp = PackedAttention(self.config, layer), PackedFeedForward(self.config)
        self.kernels, self.dtype = PACKED, dtype
        self.load_from(model)
        self.eval()

    @property
    def cache_dtype(self) -> torch.dtype:
        return torch.float32

    @torch.no_grad()
    def load_from(self, model: Transformer) -> None:
        """Take over the weights of `model`."""
        weights = join(model.state_dict() | {"head.weight": model.head_weight}, self.config.n_layer)
        for prefix, module in self.named_modules():
            is_wide = not isinstance(module, Linear | Embedding)
            for name, _ in list(module.named_parameters(recurse=False)):
                dtype = torch.float32 if is_wide else self.dtype
                value = weights[f"{prefix}.{name}"].to("cpu", dtype, copy=True)
                is_matrix = isinstance(module, Linear) and name == "weight"
                setattr(module, name, nn.Parameter(pack(value) if is_matrix else value, requires_grad=False))
            if isinstance(module, Linear | Embedding):
                module.kernels = PACKED
