"""What a model of a given (resolved) configuration costs: parameters, operations, bytes. Does without torch."""

from __future__ import annotations

from typing import Literal

from llm.config.optimizers import OPTIMIZER_INFO, optimizer_of_group
from llm.config.schema import ModelConfig

Precision = Literal["fp32", "bf16", "fp16"]
WEIGHT_BYTES = 4  # training keeps float32 weights
LEAST_LOGIT_ROWS = 256  # rows whose logits the loss holds at once, at least
BLOCK_ROWS = 128  # queries that attention works on together on a CPU: measured best for texts of 64 to 1024 tokens
MOST_KEPT_POSITIONS = 256  # in longer texts a CPU forms the attention weights anew for the backward pass


def parameters(config: ModelConfig) -> int:
    """Numbers that training moves; a tied head counts once."""
    return sum(group_parameters(config).values())


def group_parameters(config: ModelConfig) -> dict[str, int]:
    """Numbers in each parameter group (`llm.config.optimizers.GROUPS`)."""
    d, kv = config.d_model, kv_width(config)
    biases = (d + 2 * kv if config.qkv_bias else 0) + (
        inner_matrices(config) * config.d_ff + 2 * d if config.bias else 0
    )
    return {
        "embedding": lookup_parameters(config),
        "head": 0 if config.tied_head else config.vocab_size * d,
        "matrices": matrix_parameters(config),
        "vectors": config.n_layer * biases + norm_parameters(config) * (2 * config.n_layer + 1 + config.embedding_norm),
    }


def matrix_parameters(config: ModelConfig) -> int:
    """Numbers in the matrices of all blocks."""
    d = config.d_model
    attention = 2 * d * d + 2 * d * kv_width(config)
    feed_forward = (inner_matrices(config) + 1) * d * config.d_ff
    return config.n_layer * (attention + feed_forward)


def kv_width(config: ModelConfig) -> int:
    """Width of all key heads together."""
    return config.n_kv_head * (config.d_model // config.n_head)


def inner_matrices(config: ModelConfig) -> int:
    """Matrices that lead into the feed-forward's hidden layer."""
    return 2 if config.mlp == "swiglu" else 1


def norm_parameters(config: ModelConfig) -> int:
    """Gain and bias of one normalisation."""
    biased = config.norm == "layernorm" and config.bias
    return config.d_model * (config.norm_gain + biased)


def lookup_parameters(config: ModelConfig) -> int:
    """The token embedding, and the position embedding where there is one."""
    rows = config.vocab_size + (config.context if config.position == "learned" else 0)
    return rows * config.d_model


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Floating-point operations of forward and backward for one token of a sequence of `seq_len`.

    6·N + 12·L·d·T, as in PaLM (Chowdhery et al. 2022, appendix B). N are the parameters that take part in a matrix
    product, gains and biases counted with them: all but the embeddings, which are looked up; the head counts, tied or
    not. Each costs a multiplication and an addition forward and twice that backward. Attention is counted as if it
    were not causal, as is usual for model-FLOPs utilisation.
    """
    head = config.vocab_size * config.d_model if config.tied_head else 0
    multiplied = parameters(config) - lookup_parameters(config) + head
    return 6.0 * multiplied + 12.0 * config.n_layer * config.d_model * seq_len


def weight_bytes(config: ModelConfig, bytes_per_parameter: int = WEIGHT_BYTES) -> int:
    """The weights alone."""
    return parameters(config) * bytes_per_parameter


def kv_cache_bytes(config: ModelConfig, batch_size: int = 1, length: int = 0, bytes_per_number: int = 4) -> int:
    """Keys and values of `length` positions (0 = the context) of `batch_size` sequences."""
    return batch_size * 2 * config.n_layer * kv_width(config) * (length or config.context) * bytes_per_number


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    precision: Precision = "fp32",
    optimizer: str = "adamw",
) -> int:
    """An estimate of what one training step holds at its fullest: within about a quarter, torch itself not counted.

    Weights, gradients, optimiser state, activations kept for the backward pass, and the logits of one chunk
    (`llm.model.loss`). Half precision keeps a narrow copy of the weights besides.
    """
    all_weights = parameters(config)
    state = sum(
        OPTIMIZER_INFO[optimizer_of_group(optimizer, group)].state_tensors * numbers
        for group, numbers in group_parameters(config).items()
    )
    narrow_copy = 0 if precision == "fp32" else 2 * all_weights
    logits = 3 * LEAST_LOGIT_ROWS * config.vocab_size
    return (
        WEIGHT_BYTES * (2 * all_weights + state + logits)
        + narrow_copy
        + batch_size * seq_len * activation_bytes_per_token(config, seq_len, precision)
    )


def activation_bytes_per_token(config: ModelConfig, seq_len: int, precision: Precision) -> int:
    """Bytes that the forward pass keeps for the backward pass, per token.

    The residual stream and the normalisations are float32; matrix products and what lies between them are narrow in
    half precision. Attention in bfloat16 or with dropout is counted as on a CPU (`llm.model.blockwise`), which
    keeps a little more than a GPU.
    """
    d, narrow = config.d_model, 4 if precision == "fp32" else 2
    norm = (8 if config.norm == "rmsnorm" else 4) * d + narrow * d
    attention = narrow * (2 * d + 2 * kv_width(config))
    if precision == "bf16" or config.dropout:
        weights = config.n_head * min(seq_len, (seq_len + BLOCK_ROWS) // 2)
        attention += narrow * (d + (weights if seq_len <= MOST_KEPT_POSITIONS else 0))
    hidden = {"swiglu": 4, "gelu": 2, "gelu-exact": 2, "relu2": 3}[config.mlp] * narrow * config.d_ff
    dropout = 3 * narrow * d if config.dropout else 0
    return config.n_layer * (2 * norm + attention + hidden + dropout) + norm + 8 * d
