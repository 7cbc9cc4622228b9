"""A model laid out for reading: as few operations for a token as its architecture allows, on matrices in the order in
which the CPU's matrix-vector product takes them.

Writing one token reads every weight once, and waits for memory; a small model spends the rest of its time on starting
some hundred operations. So what can be one operation is one: queries, keys and values are projected, rotated and stored
together. And matrices are rearranged once, to be read in one sweep, where torch can: on an AVX-512 CPU of 2024 a
bfloat16 product takes a third to a half of `F.linear`'s time, a float32 one two thirds. Row i of such a product has the
same bits whatever rows and however many threads are beside it (tests/model/test_packed.py), which `F.linear` does not
promise.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config.schema import ModelConfig
from llm.model.attention import KVCache
from llm.model.kernels import FUSED
from llm.model.rotary import rotary_angles, rows
from llm.model.transformer import Transformer, check_room

GELU_APPROXIMATIONS = {"gelu": "tanh", "gelu-exact": "none"}
"""torch's name for the GELU of each feed-forward that has one."""

Weights = Mapping[str, Tensor]
"""Those of a model or of a part of it, by the names they have in `Transformer`."""


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch can rearrange matrices of this kind here: oneDNN on an x86 CPU with the instructions for it."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())


class PackedLinear:
    """x Wᵀ + b, in the dtype of W and b, with W packed where that can be: (..., inputs) in any dtype → (..., outputs).

    With `gelu`, the GELU of that: torch's "tanh" approximation, or "none" (exact).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: str | None = None) -> None:
        self.packed = can_pack(weight.device, weight.dtype)
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self.packed else weight
        self.bias, self.gelu = bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.packed:
            name, kind = ("none", "") if self.gelu is None else ("gelu", self.gelu)
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], kind)
            return y
        y = F.linear(x, self.weight, self.bias)
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)


class PackedTransformer:
    """What a `Transformer` computes, to read texts with: matrices and embeddings in `dtype`, all else in float32 or
    wider, on `device`.

    In bfloat16 what a matrix gives is rounded to 8 bits, the logits too, as is usual: a float32 head alone would cost
    a 124M model a third of its speed. It has no gradients, no dropout and no loss.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.config, self.dtype, self.device = model.config, dtype, device
        self.cache_dtype = torch.promote_types(dtype, torch.float32)
        self.load_from(model)

    @torch.no_grad()
    def load_from(self, model: Transformer) -> None:
        """Take over the weights of `model`, which must be of the same configuration; nothing is shared with it."""
        weights = {name: value.to(self.device, self.cache_dtype) for name, value in model.state_dict().items()}
        c = self.config
        self.embedding = weights["embedding.weight"].to(self.dtype, copy=True)
        self.position = own(weights.get("position.weight"))
        self.angles = rotations(c, self.device, self.cache_dtype) if c.position == "rope" else None
        self.embedding_norm = norm(c, weights, "embedding_norm.") if c.embedding_norm else None
        self.blocks = [
            PackedBlock(c, layer, part(weights, f"blocks.{layer}."), self.dtype) for layer in range(c.n_layer)
        ]
        self.final_norm = norm(c, weights, "final_norm.")
        self.head = PackedLinear(model.head_weight.to(self.device, self.dtype, copy=True))

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, of which only the device and the dtype say anything where it is packed."""
        return self.head.weight

    @torch.no_grad()
    def __call__(self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits (B, T, V) in float32 or wider, as `Transformer.forward` gives them."""
        count = tokens.shape[1]
        check_room(self.config, cache, count)
        start = 0 if cache is None else cache.start
        x = F.embedding(tokens, self.embedding).to(self.cache_dtype)
        if self.position is not None:
            x = x + rows(self.position, start, count)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        angles = None if self.angles is None else rows(self.angles, start, count)
        for block in self.blocks:
            x = block(x, angles, cache)
        if cache is not None:
            cache.advance(count)
        logits = self.head(self.final_norm(x[:, -1:] if last_only else x)).to(self.cache_dtype)
        cap = self.config.softcap
        return cap * torch.tanh(logits / cap) if cap else logits


class PackedBlock:
    """`Block`, on the same arguments but for the rotations: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int, weights: Weights, dtype: torch.dtype) -> None:
        self.config, self.layer = config, layer
        self.attn_norm, self.mlp_norm = (norm(config, weights, name) for name in ("attn_norm.", "mlp_norm."))
        qkv = {kind: projection(config, weights, kind) for kind in ("weight", "bias")}
        gate = ("mlp.gate.", "mlp.up.") if config.mlp == "swiglu" else ("mlp.up.",)
        up = {kind: join([weights.get(name + kind) for name in gate]) for kind in ("weight", "bias")}
        self.qkv = packed(qkv, dtype)
        self.out = packed(part(weights, "attn.out."), dtype)
        self.up = packed(up, dtype, gelu=GELU_APPROXIMATIONS.get(config.mlp))
        self.down = packed(part(weights, "mlp.down."), dtype)

    def __call__(self, x: Tensor, angles: Tensor | None, cache: KVCache | None) -> Tensor:
        """x (B, T, d_model); `angles` (T, 1, head_dim/2) complex, which turn the queries and keys."""
        x = x + self.out(self.attend(self.qkv(self.attn_norm(x)).to(x.dtype), angles, cache))
        return x + self.down(self.activate(self.up(self.mlp_norm(x))))

    def attend(self, qkv: Tensor, angles: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, T, all heads · head_dim), which may be overwritten → (B, T, n_head · head_dim)."""
        heads, key_heads = self.config.n_head, self.config.n_kv_head
        qkv = qkv.unflatten(-1, (heads + 2 * key_heads, -1))
        turning = qkv[:, :, : heads + key_heads]
        if angles is not None:
            torch.view_as_complex(turning.unflatten(-1, (-1, 2))).mul_(angles)
        if self.config.qk_norm:
            turning.copy_(FUSED.rms_norm(turning, None, self.config.norm_eps))
        query, both = qkv.transpose(1, 2).tensor_split((heads,), dim=1)
        if cache is not None:
            both = cache.store_both(self.layer, both)
        key, value = both.chunk(2, dim=1)
        seen = None if cache is None else cache.seen
        return FUSED.attention(query, key, value, 0.0, seen).transpose(1, 2).flatten(2)

    def activate(self, hidden: Tensor) -> Tensor:
        """What the second matrix of the feed-forward is given, in the dtype of the first one's result."""
        if self.config.mlp == "swiglu":
            gate, hidden = hidden.chunk(2, dim=-1)
            return F.silu(gate).mul_(hidden)
        return hidden.relu().square() if self.config.mlp == "relu2" else hidden


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Those under `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def own(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.clone()


def join(parts: list[Tensor | None]) -> Tensor | None:
    """Matrices or biases as one, row upon row; None where the model has none."""
    there = [weight for weight in parts if weight is not None]
    return torch.cat(there) if there else None


def packed(weights: Mapping[str, Tensor | None], dtype: torch.dtype, *, gelu: str | None = None) -> PackedLinear:
    matrix, bias = weights["weight"], weights.get("bias")
    assert matrix is not None
    return PackedLinear(matrix.to(dtype, copy=True), None if bias is None else bias.to(dtype, copy=True), gelu=gelu)


def norm(config: ModelConfig, weights: Weights, prefix: str) -> Callable[[Tensor], Tensor]:
    """The normalisation whose weights are under `prefix`."""
    gain, bias = own(weights.get(f"{prefix}gain")), own(weights.get(f"{prefix}bias"))
    if config.norm == "layernorm":
        return lambda x: FUSED.layer_norm(x, gain, bias, config.norm_eps)
    return lambda x: FUSED.rms_norm(x, gain, config.norm_eps)


def projection(config: ModelConfig, weights: Weights, kind: str) -> Tensor | None:
    """Queries, keys and values as one matrix (or bias), with neighbours as the pairs that rotate together.

    Queries and keys may have their coordinates in any order, if it is the same one: their products do not change.
    """
    parts = [weights.get(f"attn.{name}.{kind}") for name in "qkv"]
    if config.position == "rope" and config.rope_pairs == "halves":
        width = config.d_model // config.n_head
        parts[:2] = [None if rows is None else interleaved(rows, width) for rows in parts[:2]]
    return join(parts)


def interleaved(rows: Tensor, width: int) -> Tensor:
    """`rows` (heads·width, ...) with row i and i + width/2 of each head as neighbours."""
    return rows.view(-1, 2, width // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rotations(config: ModelConfig, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """exp(i·angle) of every position and pair, (context, 1, head_dim/2) complex, its parts in `dtype`."""
    head_dim = config.d_model // config.n_head
    angles = rotary_angles(head_dim, config.context, config.rope_theta, inverse=config.rope_inverse)
    return torch.complex(angles.cos().to(dtype), angles.sin().to(dtype)).unsqueeze(1).to(device)


ReadingModel = Transformer | PackedTransformer
"""What can read a text."""
