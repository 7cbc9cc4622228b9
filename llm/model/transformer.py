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

SCORED_AT_ONCE = 256  # targets whose logits `Transformer.score` holds


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): (B, T, d_model) → the same.

    recompute: which activations the backward pass computes again instead of reading them.
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
    """A language model. `config` must be resolved (`llm.config.resolve_model`): every size stated.

    `kernels`: the arithmetic of every layer, a key of `llm.model.kernels.KERNELS`. `recompute`: the activations that
    the backward pass computes again, in all blocks but the last (`llm.model.recompute`). Normalizations, softmax and
    the loss are computed in float32 or wider also under autocast. Nothing here reads a value back from a device. The
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
        self.lora: Lora | None = None  # of a model whose adapters alone are trained
        self.embedding = Embedding(config.vocab_size, config.d_model)
        learned = config.position == "learned"
        self.position = Embedding(config.context, config.d_model) if learned else None
        conv = config.embedding_conv
        self.embedding_conv = EmbeddingConvolution(conv, config.d_model) if conv else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.rotary = None if learned else make_rotary(config)
        last = config.n_layer - 1  # its activations are read first: computing them again would save no memory
        self.blocks = nn.ModuleList(
            Block(config, layer, recompute if layer < last else "none") for layer in range(config.n_layer)
        )
        self.final_norm = make_norm(config)
        self.head = None if config.tied_head else Linear(config.d_model, config.vocab_size, bias=False)
        use_kernels(self, KERNELS[kernels])

    @property
    def head_weight(self) -> Tensor:
        """(V, d_model): the output head's matrix, which is the embedding's where the head is tied."""
        return self.embedding.matrix if self.head is None else self.head.matrix

    @property
    def cache_dtype(self) -> torch.dtype:
        """The dtype of keys and values in a `KVCache` for this model."""
        return self.head_weight.dtype

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits (B, T, V), float32 or wider, of the token after each position; (B, 1, V) with `last_only`.

        tokens: int64 (B, T). With a cache they continue the cached text and are added to it.
        """
        hidden = self.hidden(tokens, cache)
        return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """The residual stream after the last normalization: int64 (B, T) → (B, T, d_model).

        positions: int64 (B, T), of each token in its document, where a row holds several (`Documents`).
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
        """(..., d_model) → (..., V), float32 or wider, with the configured soft cap."""
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
        as in `hidden`. With `skips_ignored`, those of ignored targets are not computed, which is faster, for "mean" and
        "sum" on a CPU; a GPU would have to read their number back first.
        """
        hidden = self.hidden(tokens, positions=positions)
        if skips_ignored and hidden.device.type == "cpu" and not torch.compiler.is_compiling():
            is_learned = targets != IGNORE_INDEX
            hidden, targets = hidden[is_learned], targets[is_learned]
        return linear_cross_entropy(hidden, self.head_weight, targets, softcap=self.config.softcap, reduction=reduction)

    def score(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each int64 target (B, T) that is not −1, row by row: its loss in nats (n,), and whether it was the
        likeliest token (n,). The logits are computed in chunks, to save memory."""
        is_scored = targets != IGNORE_INDEX
        hidden, targets = self.hidden(tokens)[is_scored], targets[is_scored]
        losses, likeliest = [], []
        for states, wanted in zip(hidden.split(SCORED_AT_ONCE), targets.split(SCORED_AT_ONCE), strict=True):
            logits = self.logits(states)
            losses.append(logits.logsumexp(-1) - logits.gather(-1, wanted[:, None])[:, 0])
            likeliest.append(logits.argmax(-1) == wanted)
        return torch.cat(losses), torch.cat(likeliest)

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter by the scheme `config.init`, drawing only from `generator`, which is on the CPU.

        The same seed gives the same weights on every device.
        """
        initialize_parameters(self.named_parameters(), self.config, generator)


def make_rotary(config: ModelConfig) -> Rotary:
    """The configured rotary embedding, for every position of the context."""
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
