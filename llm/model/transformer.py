"""The decoder-only transformer: embedding, pre-norm blocks, head.

Shapes: B batch, T positions, V vocab_size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from llm.config.resolve import check_resolved, head_width
from llm.config.schema import ModelConfig
from llm.model.activations import at_least_float32
from llm.model.attention import Attention, KVCache
from llm.model.counts import Recompute
from llm.model.documents import Documents
from llm.model.embedding_conv import EmbeddingConvolution, read_earlier_tokens
from llm.model.initialize import initialize_parameters
from llm.model.kernels import KERNELS
from llm.model.layers import Embedding, Layer, Linear, Lora, make_norm, use_kernels
from llm.model.loss import IGNORE_INDEX, cap_logits, linear_cross_entropy
from llm.model.mlp import FeedForward
from llm.model.recompute import recompute_if
from llm.model.rotary import Rotary, rows

SCORE_CHUNK = 256  # targets whose logits `Transformer.score` computes at once


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): (B, T, d_model) → the same.

    recompute: the activations that the backward pass recomputes (`llm.model.recompute`).
    """

    def __init__(self, config: ModelConfig, layer: int, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute = recompute
        self.attn_norm = make_norm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self, x: Tensor, rotary: Rotary | None, cache: KVCache | None, documents: Documents | None = None
    ) -> Tensor:
        def attention(x: Tensor) -> Tensor:
            y: Tensor = self.dropout(self.attn(self.attn_norm(x), rotary, cache, documents))
            return y

        def block(x: Tensor) -> Tensor:
            x = x + recompute_if(self.recompute == "attention", attention, x)
            y: Tensor = self.dropout(self.mlp(self.mlp_norm(x)))
            return x + y

        return recompute_if(self.recompute == "blocks", block, x)


class Transformer(Layer):
    """A decoder-only language model. ValueError unless every size of `config` is resolved (`llm.config.resolve_model`).

    `kernels`: the arithmetic of every layer, a key of `llm.model.kernels.KERNELS`. `recompute`: the activations that
    the backward pass recomputes in all blocks but the last (`llm.model.recompute`). Normalizations, softmax and the
    loss are computed in float32 or wider also under autocast. `forward` and `loss` do not synchronize with a GPU. The
    parameters are uninitialized memory until `init_weights` or `load_state_dict`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        kernels: Literal["fused", "reference"] = "fused",
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        check_resolved(config)
        self.config = config
        self.lora: Lora | None = None  # set by `add_adapters`
        self.embedding = Embedding(config.vocab_size, config.d_model)
        learned = config.position == "learned"
        self.position = Embedding(config.context, config.d_model) if learned else None
        conv = config.embedding_conv
        self.embedding_conv = EmbeddingConvolution(conv, config.d_model) if conv else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.rotary = None if learned else make_rotary(config)
        last = config.n_layer - 1  # the backward pass starts with it, so recomputing it would save no memory
        self.blocks = nn.ModuleList(
            Block(config, layer, recompute if layer < last else "none") for layer in range(config.n_layer)
        )
        self.final_norm = make_norm(config)
        self.head = None if config.tied_head else Linear(config.d_model, config.vocab_size, bias=False)
        use_kernels(self, KERNELS[kernels])

    @property
    def head_weight(self) -> Tensor:
        """The matrix of the output head, (V, d_model); the embedding's if the head is tied."""
        return self.embedding.matrix if self.head is None else self.head.matrix

    @property
    def cache_dtype(self) -> torch.dtype:
        """The dtype of keys and values in a `KVCache` for this model."""
        return self.head_weight.dtype

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits (B, T, V), float32 or wider, of the token after each position; (B, 1, V) with `last_only`.

        tokens: int64 (B, T). With a cache they follow its positions and are added to it. ValueError if they do not fit.
        """
        hidden = self.hidden(tokens, cache)
        return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """The residual stream after the final normalization: int64 (B, T) → (B, T, d_model).

        positions: int64 (B, T), the position of each token in its document, if rows hold several (`Documents`).
        """
        count = tokens.shape[1]
        check_length(self.config, cache, count)
        x: Tensor = self.embedding(tokens)
        if self.embedding_conv is not None:
            earlier = read_earlier_tokens(self.embedding, tokens, cache, self.config.embedding_conv - 1)
            x = self.embedding_conv(x, earlier, positions)
        if self.position is not None:
            start = 0 if cache is None else cache.start
            x = x + rows(self.position.weight, start if positions is None else positions, count)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        documents = None if positions is None else Documents.from_positions(positions)
        for block in self.blocks:
            x = block(x, self.rotary, cache, documents)
        if cache is not None:
            cache.advance(count)
        y: Tensor = self.final_norm(x)
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """The output head with the configured soft cap: (..., d_model) → (..., V), float32 or wider."""
        return cap_logits(at_least_float32(self.kernels.linear(hidden, self.head_weight, None)), self.config.softcap)

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        reduction: Literal["mean", "sum", "none"] = "mean",
        *,
        positions: Tensor | None = None,
        skips_ignored: bool = False,
    ) -> Tensor:
        """Cross entropy in nats of int64 targets (B, T), where −1 is ignored: a scalar, or (B, T) for "none".

        The mean is over the targets that are not ignored. The logits are computed in chunks of positions. `positions`
        as in `hidden`. `skips_ignored`, for "mean" and "sum": do not compute the logits of ignored targets. It applies
        to eager mode on a CPU; a GPU would have to synchronize to know how many targets remain.
        """
        hidden = self.hidden(tokens, positions=positions)
        if skips_ignored and hidden.device.type == "cpu" and not torch.compiler.is_compiling():
            is_learned = targets != IGNORE_INDEX
            hidden, targets = hidden[is_learned], targets[is_learned]
        return linear_cross_entropy(hidden, self.head_weight, targets, softcap=self.config.softcap, reduction=reduction)

    def score(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For the n targets (int64, (B, T)) that are not −1, in row-major order: the loss in nats (n,), float32 or
        wider, and whether the target is the most probable token (n,), bool. The logits are computed in chunks, to save
        memory.
        """
        is_scored = targets != IGNORE_INDEX
        hidden, targets = self.hidden(tokens)[is_scored], targets[is_scored]
        losses, is_greedy = [], []
        for states, ids in zip(hidden.split(SCORE_CHUNK), targets.split(SCORE_CHUNK), strict=True):
            logits = self.logits(states)
            losses.append(logits.logsumexp(-1) - logits.gather(-1, ids[:, None])[:, 0])
            is_greedy.append(logits.argmax(-1) == ids)
        return torch.cat(losses), torch.cat(is_greedy)

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter by the scheme `config.init`, drawing only from `generator`, which is on the CPU.

        The same seed gives the same weights on every device.
        """
        initialize_parameters(self.named_parameters(), self.config, generator)


def make_rotary(config: ModelConfig) -> Rotary:
    """The rotary embedding of `config`, for every position of the context."""
    return Rotary(
        head_width(config),
        config.context,
        theta=config.rope_theta,
        pairs=config.rope_pairs,
        inverse=config.rope_inverse,
    )


def check_length(config: ModelConfig, cache: KVCache | None, count: int) -> None:
    """ValueError unless `count` positions after those of `cache` fit into the model's context and into the cache."""
    length = count if cache is None else cache.length + count
    if length > config.context:
        raise ValueError(f"{length} positions exceed the model's context of {config.context}; crop the text.")
    if cache is not None:
        cache.check_capacity(count)
