"""A model laid out for reading: matrices in the order in which the CPU's matrix-vector product takes them.

Writing one token reads every weight once, and waits for memory. Rearranged once, matrices are read in one sweep: on an
AVX-512 CPU of 2024 a bfloat16 product takes a third to a half of `F.linear`'s time, a float32 one two thirds. Row i of
a product has the same bits whatever rows and however many threads are beside it (tests/model/test_packed.py), which
`F.linear` does not promise.
"""

from __future__ import annotations

import platform
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.kernels import FUSED
from llm.model.layers import Embedding, Linear
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


class PackedTransformer(Transformer):
    """A `Transformer` to read texts with: matrices and embeddings in `dtype`, packed, and all else in float32.

    The head multiplies in float32 whatever `dtype` is: logits rounded to bfloat16 would tie. It is a matrix of its own
    also where the model's is tied, for an embedding cannot be packed. There is no loss: that takes the head apart.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__(replace(model.config, tied_head=False, dropout=0.0))
        self.kernels, self.dtype = PACKED, dtype
        self.load_from(model)
        self.eval()

    @property
    def cache_dtype(self) -> torch.dtype:
        return torch.float32

    @torch.no_grad()
    def load_from(self, model: Transformer) -> None:
        """Take over the weights of `model`."""
        weights = model.state_dict() | {"head.weight": model.head_weight}
        for prefix, module in self.named_modules():
            is_wide = not isinstance(module, Linear | Embedding) or module is self.head
            for name, _ in list(module.named_parameters(recurse=False)):
                dtype = torch.float32 if is_wide else self.dtype
                value = weights[f"{prefix}.{name}"].to("cpu", dtype, copy=True)
                is_matrix = isinstance(module, Linear) and name == "weight"
                setattr(module, name, nn.Parameter(pack(value) if is_matrix else value, requires_grad=False))
            if isinstance(module, Linear | Embedding):
                module.kernels = PACKED
