"""Causal self-attention with grouped queries, and the key/value cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config.resolve import check_resolved, head_width
from llm.config.schema import ModelConfig
from llm.model.documents import Documents
from llm.model.layers import Layer, Linear, RMSNorm, joint_linear
from llm.model.rotary import Rotary

HEADS = ("d_model", "n_head", "n_kv_head")


class KVCache:
    """Keys and values of the positions read so far, in preallocated memory.

    `keys` and `values` are views (n_layer, B, n_kv_head, capacity, head_dim) of one tensor `kv`, whose third axis holds
    the key heads and then the value heads. `tokens`, int64 (B, capacity), are the ids read, stored only for a model
    with `embedding_conv`. The first `length` positions are filled, the others are uninitialized. `length` is a Python
    integer, so reading it does not synchronize with the device.
    """

    attn_mask: Tensor | None = None
    """The positions returned by `store` that a query attends to: bool, broadcastable to (B, n_head, T, S). None:
    causal."""

    reads_singly = False
    """Whether a `PackedTransformer` computes attention one query at a time, so that reading several tokens at once
    gives the same bits as reading them one by one."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        length: int | None = None,
    ) -> None:
        """Allocate `length` positions (default: the model's context).

        ValueError if a size of `config` is not resolved (`llm.config.resolve_model`).
        """
        check_resolved(config, (*HEADS, "n_layer", "context"))
        self.config = config
        self.capacity = config.context if length is None else length
        shape = (config.n_layer, batch_size, 2 * config.n_kv_head, self.capacity, head_width(config))
        self.kv = torch.empty(shape, device=device, dtype=dtype)
        self.keys, self.values = self.kv.chunk(2, dim=2)
        self.tokens = torch.empty(batch_size, self.capacity, device=device, dtype=torch.int64)
        self.length = 0

    @property
    def batch_size(self) -> int:
        return self.kv.shape[1]

    @property
    def start(self) -> int | Tensor:
        """The position of the next token, as an integer or, in subclasses, a tensor on the device."""
        return self.length

    def check_capacity(self, count: int) -> None:
        """ValueError unless `count` more positions fit."""
        if self.length + count > self.capacity:
            raise ValueError(
                f"The KV cache holds {self.length} of {self.capacity} positions: {count} more do not fit; truncate it."
            )

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write key and value (B, n_kv_head, T, head_dim) after the filled positions; return all keys and values of
        that layer, (B, n_kv_head, length + T, head_dim), in the dtypes of `key` and `value`.

        `length` does not change: call `advance` after the last layer.
        """
        stop = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : stop] = key
        self.values[layer, :, :, self.length : stop] = value
        return self.keys[layer, :, :, :stop].to(key.dtype), self.values[layer, :, :, :stop].to(value.dtype)

    def store_kv(self, layer: int, kv: Tensor) -> Tensor:
        """`store` for keys and values in one tensor, (B, 2·n_kv_head, T, head_dim); the result has the cache's
        dtype."""
        stop = self.length + kv.shape[2]
        self.kv[layer, :, :, self.length : stop] = kv
        return self.kv[layer, :, :, :stop]

    def store_tokens(self, tokens: Tensor, before: int) -> Tensor:
        """Write ids (B, T) after the filled positions; return the `before` ids that precede them, (B, before), padded
        with −1 on the left."""
        self.tokens[:, self.length : self.length + tokens.shape[1]] = tokens
        known = self.tokens[:, max(0, self.length - before) : self.length]
        return F.pad(known, (before - known.shape[1], 0), value=-1)

    def advance(self, count: int) -> None:
        """Mark `count` stored positions as filled."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Keep only the first `length` positions, to continue from a shared prefix. ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"A KV cache of {self.length} positions cannot be truncated to {length}.")
        self.length = length

    def expand(self, batch_size: int) -> KVCache:
        """A copy with this cache's one sequence repeated `batch_size` times. ValueError if it has several."""
        if self.batch_size != 1:
            raise ValueError(f"Only a KV cache of one sequence can be expanded; this one has {self.batch_size}.")
        copy = KVCache(self.config, batch_size, device=self.keys.device, dtype=self.keys.dtype, length=self.capacity)
        copy.kv[..., : self.length, :] = self.kv[..., : self.length, :]
        copy.tokens[:, : self.length] = self.tokens[:, : self.length]
        copy.length = self.length
        return copy

    def select(self, rows: Tensor) -> None:
        """Reorder the batch: row i takes the text of row `rows[i]`; rows (B,) int64."""
        self.kv[..., : self.length, :] = self.kv[:, rows, :, : self.length]
        self.tokens[:, : self.length] = self.tokens[rows, : self.length]


class Attention(Layer):
    """Causal self-attention: (B, T, d_model) → (B, T, d_model).

    With `qk_gain`, queries and keys are normalized per head with a gain before the rotary embedding (Qwen3); with
    `qk_norm` alone, without a gain after it (nanochat).
    ValueError if the configuration's heads and width are not resolved (`llm.config.resolve_model`).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        check_resolved(config, HEADS)
        self.layer = layer
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = head_width(config)
        self.qk_norm_eps = config.norm_eps if config.qk_norm and not config.qk_gain else None
        self.q_norm = RMSNorm(self.head_dim, eps=config.norm_eps, gain=True) if config.qk_gain else None
        self.k_norm = RMSNorm(self.head_dim, eps=config.norm_eps, gain=True) if config.qk_gain else None
        self.dropout = config.dropout
        width, q_width, kv_width = config.d_model, config.n_head * self.head_dim, config.n_kv_head * self.head_dim
        self.q = Linear(width, q_width, bias=config.qkv_bias)
        self.k = Linear(width, kv_width, bias=config.qkv_bias)
        self.v = Linear(width, kv_width, bias=config.qkv_bias)
        self.out = Linear(q_width, width, bias=config.bias)

    def forward(
        self, x: Tensor, rotary: Rotary | None, cache: KVCache | None, documents: Documents | None = None
    ) -> Tensor:
        queries, keys, values = self.project(x)
        query, key = self._heads(queries, self.n_head), self._heads(keys, self.n_kv_head)
        value = self._heads(values, self.n_kv_head)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            start = 0 if cache is None else cache.start
            start = start if documents is None else documents.positions
            query, key = rotary(query, start), rotary(key, start)
        if self.qk_norm_eps is not None:
            query = self.kernels.rms_norm(query, None, self.qk_norm_eps)
            key = self.kernels.rms_norm(key, None, self.qk_norm_eps)
        if cache is not None:
            key, value = cache.store(self.layer, key, value)
        attn_mask = None if cache is None else cache.attn_mask
        attn_mask = attn_mask if documents is None else documents.attn_mask
        heads = self.kernels.attention(query, key, value, self.dropout if self.training else 0.0, attn_mask)
        y: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return y

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads: (B, T, d_model) → (B, T, heads·head_dim) each."""
        layers = (self.q, self.k, self.v)
        query, key, value = joint_linear(layers, x).split([len(layer.weight) for layer in layers], dim=-1)
        return query, key, value

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads·head_dim) → (B, heads, T, head_dim)."""
        batch, count, _ = x.shape
        return x.view(batch, count, heads, self.head_dim).transpose(1, 2)
