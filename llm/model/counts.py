"""What a model of a given (resolved) configuration costs: parameters, operations, bytes. Does without torch."""

from __future__ import annotations

from typing import Literal

from llm.config.schema import ModelConfig

Precision = Literal["fp32", "bf16", "fp16"]
WEIGHT_BYTES = 4  # training keeps float32 weights


def parameters(config: ModelConfig) -> int:
    """Numbers that training moves; a tied head counts once."""
    d, ff = config.d_model, config.d_ff
    kv = config.n_kv_head * (d // config.n_head)
    attention = 2 * d * d + 2 * d * kv
    if config.qkv_bias:
        attention += d + 2 * kv
    matrices_in = 2 if config.mlp == "swiglu" else 1
    feed_forward = (matrices_in + 1) * d * ff
    if config.bias:
        attention += d
        feed_forward += matrices_in * ff + d
    norm = norm_parameters(config)
    norms = norm * (2 * config.n_layer + 1 + config.embedding_norm)
    return (
        lookup_parameters(config)
        + config.n_layer * (attention + feed_forward)
        + norms
        + (0 if config.tied_head else config.vocab_size * d)
    )


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
    head_dim = config.d_model // config.n_head
    numbers = 2 * config.n_layer * config.n_kv_head * head_dim * (length or config.context)
    return batch_size * numbers * bytes_per_number
