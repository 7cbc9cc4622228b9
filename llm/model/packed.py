"""A model for inference on a CPU: few operations per token, on matrices packed for the matrix-vector product.

Decoding a token reads every weight once and is limited by memory bandwidth; in a small model the launch of some hundred
operations takes time too. Therefore queries, keys and values are projected, rotated and stored together, and matrices
are packed once if oneDNN can: on an AVX-512 CPU of 2024 a bfloat16 product takes a third to a half of `F.linear`'s
time, a float32 one two thirds. Such a product is batch-invariant: row i has the same bits for any number of rows and
threads (tests/model/test_packed.py), which `F.linear` does not guarantee.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config.resolve import head_width
from llm.config.schema import ModelConfig
from llm.device import cpu_multiplies_bf16
from llm.errors import WrongUse
from llm.model.attention import KVCache
from llm.model.embedding_conv import add_earlier_tokens, read_earlier_tokens
from llm.model.kernels import FUSED
from llm.model.loss import IGNORE_INDEX, cap_logits
from llm.model.quantized import Int4Linear, Int8Linear, Int8WeightLinear, has_fbgemm
from llm.model.rotary import rotary_angles, rows
from llm.model.transformer import Transformer, check_length

GELU_APPROXIMATIONS = {"gelu": "tanh", "gelu-exact": "none"}
"""The `approximate` argument of `F.gelu` for each `model.mlp` with a GELU."""

Weights = Mapping[str, Tensor]
"""The weights of a model or of a part of it, by their names in `Transformer`."""


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether matrices of this kind can be packed: by oneDNN on an x86 CPU with the instructions for it."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and cpu_multiplies_bf16())


class PackedLinear:
    """x Wᵀ + b, in the dtype of W and b, with W packed if possible: (..., inputs) in any dtype → (..., outputs).

    With `gelu`, a GELU follows: "tanh" (approximation) or "none" (exact), as `approximate` of `F.gelu`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: str | None = None) -> None:
        self.is_packed = can_pack(weight.device, weight.dtype)
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self.is_packed else weight
        self.bias, self.gelu = bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.is_packed:
            name, kind = ("none", "") if self.gelu is None else ("gelu", self.gelu)
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], kind)
            return y
        y = F.linear(x, self.weight, self.bias)
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)


QuantizedLinear = Int8Linear | Int8WeightLinear | Int4Linear
AnyLinear = PackedLinear | QuantizedLinear


class PackedTransformer:
    """A `Transformer` for inference on `device`: matrices and embeddings in `dtype`, the rest in float32 or wider.

    `dtype` torch.int8: matrices as `Int8Linear`, embeddings in bfloat16. torch.quint4x2: blocks as
    `Int4Linear`, the head as in int8.

    In bfloat16 the result of each matrix, also the logits, is rounded to 8 bits, as is usual: a float32 head alone
    would slow a 124M model by a third. It has no gradients, no dropout and no training mode.
    """

    training = False

    def __init__(self, model: Transformer, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.config, self.dtype, self.device = model.config, dtype, device
        self.narrow = torch.bfloat16 if dtype in (torch.int8, torch.quint4x2) else dtype
        self.cache_dtype = torch.promote_types(self.narrow, torch.float32)
        self.load_from(model)

    @torch.no_grad()
    def load_from(self, model: Transformer) -> None:
        """Copy the weights of `model`, which must have the same configuration."""
        weights = {name: value.to(self.device, self.cache_dtype) for name, value in model.state_dict().items()}
        c = self.config
        self.embedding = weights["embedding.weight"].to(self.narrow, copy=True)
        self.position = clone_or_none(weights.get("position.weight"))
        self.angles = rotations(c, self.device, self.cache_dtype) if c.position == "rope" else None
        self.embedding_conv = clone_or_none(weights.get("embedding_conv.weight"))
        self.embedding_norm = norm(c, weights, "embedding_norm.") if c.embedding_norm else None
        self.blocks = [
            PackedBlock(c, layer, weights_under(weights, f"blocks.{layer}."), self.dtype) for layer in range(c.n_layer)
        ]
        self.final_norm = norm(c, weights, "final_norm.")
        dtype = torch.int8 if self.dtype == torch.quint4x2 else self.dtype
        self.head = pack_linear({"weight": model.head_weight.detach().to(self.device)}, dtype)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix; only its device and dtype are meaningful if it is packed."""
        return self.head.weight

    @property
    def has_independent_rows(self) -> bool:
        """Whether matrix products are batch-invariant: a row has the same bits for any number of rows."""
        return self.head.is_packed

    @torch.no_grad()
    def __call__(self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits as in `Transformer.forward`."""
        count = tokens.shape[1]
        check_length(self.config, cache, count)
        start = 0 if cache is None else cache.start
        x = self.embed(tokens)
        if self.embedding_conv is not None:
            earlier = read_earlier_tokens(self.embed, tokens, cache, len(self.embedding_conv))
            x = add_earlier_tokens(x, earlier, self.embedding_conv)
        if self.position is not None:
            x = x + rows(self.position, start, count)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        angles = None if self.angles is None else rows(self.angles, start, count)
        for block in self.blocks:
            x = block(x, angles, cache)
        if cache is not None:
            cache.advance(count)
        return cap_logits(
            self.head(self.final_norm(x[:, -1:] if last_only else x)).to(self.cache_dtype), self.config.softcap
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """The embeddings of int64 tokens (...): (..., d_model) in `cache_dtype`."""
        return F.embedding(tokens, self.embedding).to(self.cache_dtype)

    def eval(self) -> PackedTransformer:
        """Return the model itself, which is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> PackedTransformer:
        """Return the model itself. ValueError if `mode` is True."""
        if mode:
            raise ValueError("A PackedTransformer cannot be trained.")
        return self

    def loss(
        self, tokens: Tensor, targets: Tensor, *, reduction: Literal["none"], positions: Tensor | None = None
    ) -> Tensor:
        """The loss (B, T) of each target in nats, as `Transformer.loss`. WrongUse for rows of several documents."""
        if positions is not None:
            raise WrongUse("int8 and int4 cannot be evaluated on packed conversations; evaluate a checkpoint of text.")
        logits = self(tokens).flatten(0, 1).float()
        losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction=reduction)
        return losses.view_as(targets)


class PackedBlock:
    """`Block` with packed weights: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int, weights: Weights, dtype: torch.dtype) -> None:
        self.config, self.layer = config, layer
        self.attn_norm, self.mlp_norm = (norm(config, weights, name) for name in ("attn_norm.", "mlp_norm."))
        qkv = {kind: projection(config, weights, kind) for kind in ("weight", "bias")}
        gate = ("mlp.gate.", "mlp.up.") if config.mlp == "swiglu" else ("mlp.up.",)
        up = {kind: concatenate([weights.get(name + kind) for name in gate]) for kind in ("weight", "bias")}
        self.qkv = pack_linear(qkv, dtype)
        self.qk_norm = head_norm(config, weights)
        self.out = pack_linear(weights_under(weights, "attn.out."), dtype)
        self.up = pack_linear(up, dtype, gelu=GELU_APPROXIMATIONS.get(config.mlp))
        self.down = pack_linear(weights_under(weights, "mlp.down."), dtype)

    def __call__(self, x: Tensor, angles: Tensor | None, cache: KVCache | None) -> Tensor:
        """x (B, T, d_model) → (B, T, d_model); `angles` (T, 1, head_dim/2), complex: the rotations of queries and
        keys."""
        x = x + self.out(self.attend(self.qkv(self.attn_norm(x)).to(x.dtype), angles, cache))
        return x + self.down(self.activate(self.up(self.mlp_norm(x))))

    def attend(self, qkv: Tensor, angles: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, T, (n_head + 2·n_kv_head) · head_dim), which may be overwritten → (B, T, n_head · head_dim)."""
        heads, key_heads = self.config.n_head, self.config.n_kv_head
        qkv = qkv.unflatten(-1, (heads + 2 * key_heads, -1))
        rotated = qkv[:, :, : heads + key_heads]
        if self.config.qk_gain:
            rotated.copy_(self.qk_norm(rotated))
        if angles is not None:
            torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(angles)
        if self.config.qk_norm and not self.config.qk_gain:
            rotated.copy_(self.qk_norm(rotated))
        query, kv = qkv.transpose(1, 2).tensor_split((heads,), dim=1)
        if cache is not None:
            kv = cache.store_kv(self.layer, kv)
        key, value = kv.chunk(2, dim=1)
        attn_mask = None if cache is None else cache.attn_mask
        if cache is not None and cache.reads_singly:
            return attend_singly(query, key, value).transpose(1, 2).flatten(2)
        return FUSED.attention(query, key, value, 0.0, attn_mask).transpose(1, 2).flatten(2)

    def activate(self, hidden: Tensor) -> Tensor:
        """The activation function, except a GELU, which `up` applies: (B, T, outputs of `up`) → (B, T, d_ff)."""
        if self.config.mlp == "swiglu":
            gate, hidden = hidden.chunk(2, dim=-1)
            return F.silu(gate).mul_(hidden)
        return hidden.relu().square() if self.config.mlp == "relu2" else hidden


def attend_singly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention (B, n_head, T, head_dim) of the last T positions, one query at a time, since products of other
    shapes round differently."""
    count, stop = query.shape[2], key.shape[2]
    outputs = []
    for i in range(count):
        end = stop - count + i + 1
        outputs.append(FUSED.attention(query[:, :, i : i + 1], key[:, :, :end], value[:, :, :end], 0.0, None))
    return torch.cat(outputs, dim=2)


def weights_under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def clone_or_none(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.clone()


def concatenate(parts: list[Tensor | None]) -> Tensor | None:
    """The concatenation of the matrices or biases that are not None; None if all are."""
    weights = [weight for weight in parts if weight is not None]
    return torch.cat(weights) if weights else None


def pack_linear(weights: Mapping[str, Tensor | None], dtype: torch.dtype, *, gelu: str | None = None) -> AnyLinear:
    matrix, bias = weights["weight"], weights.get("bias")
    assert matrix is not None
    quantized = quantized_class(dtype)
    if quantized is not None:
        return quantized(matrix, bias, gelu=gelu)
    return PackedLinear(matrix.to(dtype, copy=True), None if bias is None else bias.to(dtype, copy=True), gelu=gelu)


def quantized_class(dtype: torch.dtype) -> type[QuantizedLinear] | None:
    """The class of a matrix in `dtype`; None if it is multiplied as a tensor of that dtype."""
    if dtype == torch.int8:
        return Int8Linear if has_fbgemm() else Int8WeightLinear
    if dtype == torch.quint4x2:
        return Int4Linear
    return None


def norm(config: ModelConfig, weights: Weights, prefix: str) -> Callable[[Tensor], Tensor]:
    """The normalization whose weights start with `prefix`."""
    gain, bias = clone_or_none(weights.get(f"{prefix}gain")), clone_or_none(weights.get(f"{prefix}bias"))
    if config.norm == "layernorm":
        return lambda x: FUSED.layer_norm(x, gain, bias, config.norm_eps)
    if device_type(weights) != "cpu":
        return lambda x: FUSED.rms_norm(x, gain, config.norm_eps)
    return rms_norm(gain, config.d_model, config.norm_eps)


def head_norm(config: ModelConfig, weights: Weights) -> Callable[[Tensor], Tensor]:
    """The normalization of each query and key head."""
    gain = head_gains(config, weights) if config.qk_gain else None
    if device_type(weights) == "cpu":
        return rms_norm(gain, head_width(config), config.norm_eps)
    scale = 1.0 if gain is None else gain
    return lambda x: FUSED.rms_norm(x, None, config.norm_eps) * scale


def device_type(weights: Weights) -> str:
    return next(iter(weights.values())).device.type


def rms_norm(gain: Tensor | None, width: int, eps: float) -> Callable[[Tensor], Tensor]:
    """x / √(mean(x²) + ε) · gain = x / √(Σx² + width·ε) · (√width · gain), with `gain` broadcastable to x (..., width).

    On a CPU these are four operations, where `F.rms_norm` of torch 2.13.0 consists of nine.
    """
    scaled = math.sqrt(width) if gain is None else gain * math.sqrt(width)
    floor = torch.tensor(math.sqrt(width * eps), dtype=torch.float64)  # a scalar, so the result has the dtype of x
    return lambda x: x.div(torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(floor)).mul_(scaled)


def projection(config: ModelConfig, weights: Weights, kind: str) -> Tensor | None:
    """The query, key and value matrices (or biases) as one, reordered to "even-odd" rotary pairs.

    The same order of coordinates in queries and keys leaves their dot products unchanged.
    """
    parts = [weights.get(f"attn.{name}.{kind}") for name in "qkv"]
    if config.position == "rope" and config.rope_pairs == "halves":
        width = head_width(config)
        parts[:2] = [None if rows is None else interleave_halves(rows, width) for rows in parts[:2]]
    return concatenate(parts)


def head_gains(config: ModelConfig, weights: Weights) -> Tensor:
    """The gain of each query and key head, (n_head + n_kv_head, head_dim), in the order of `projection`."""
    query, key = weights["attn.q_norm.gain"], weights["attn.k_norm.gain"]
    if config.position == "rope" and config.rope_pairs == "halves":
        query, key = interleave_halves(query, len(query)), interleave_halves(key, len(key))
    return torch.stack([query] * config.n_head + [key] * config.n_kv_head)


def interleave_halves(rows: Tensor, width: int) -> Tensor:
    """`rows` (heads·width, ...) with rows i and i + width/2 of each head next to each other."""
    return rows.view(-1, 2, width // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rotations(config: ModelConfig, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """exp(i·angle) of every position and pair: (context, 1, head_dim/2), complex, with real and imaginary parts in
    `dtype`."""
    angles = rotary_angles(head_width(config), config.context, config.rope_theta, inverse=config.rope_inverse)
    return torch.complex(angles.cos().to(dtype), angles.sin().to(dtype)).unsqueeze(1).to(device)


InferenceModel = Transformer | PackedTransformer
"""A model that returns the logits of the next token."""
