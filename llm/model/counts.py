"""The cost of a model with a resolved configuration: parameters, operations, bytes. Does not import torch."""

from __future__ import annotations

from typing import Literal

from llm.config.optimizers import OPTIMIZER_INFO, optimizer_of_group
from llm.config.resolve import head_width
from llm.config.schema import ModelConfig
from llm.config.tune_schema import TuneConfig

Precision = Literal["fp32", "bf16", "fp16"]
Recompute = Literal["none", "blocks", "attention"]
WEIGHT_BYTES = 4  # training keeps float32 weights
MIN_LOGIT_ROWS = 256  # the fewest rows whose logits the loss computes at once
BLOCK_ROWS = 128  # queries per block of attention on a CPU: fastest in measurements for texts of 64 to 1024 tokens
MAX_SAVED_POSITIONS = 256  # for longer texts a CPU recomputes the attention weights in the backward pass
NO_TUNING = TuneConfig()


def parameters(config: ModelConfig) -> int:
    """The number of parameters of the model without adapters; a tied head counts once."""
    return sum(group_parameters(config).values())


def group_parameters(config: ModelConfig) -> dict[str, int]:
    """The number of parameters in each group (`llm.config.optimizers.GROUPS`)."""
    d, kv = config.d_model, kv_width(config)
    biases = (q_width(config) + 2 * kv if config.qkv_bias else 0) + (
        inner_matrices(config) * config.d_ff + 2 * d if config.bias else 0
    )
    gains = 2 * head_width(config) if config.qk_gain else 0
    return {
        "embedding": lookup_parameters(config),
        "head": 0 if config.tied_head else config.vocab_size * d,
        "matrices": matrix_parameters(config),
        "vectors": config.n_layer * (biases + gains)
        + norm_parameters(config) * (2 * config.n_layer + 1 + config.embedding_norm)
        + max(0, config.embedding_conv - 1) * d,
    }


def trained_parameters(config: ModelConfig, tune: TuneConfig) -> dict[str, int]:
    """The number of trainable parameters by group: all of them or, with LoRA, those of the adapters and trained
    rows."""
    if not tune.lora_rank:
        return group_parameters(config)
    rows = tune.lora_rows * config.d_model
    return {
        "embedding": rows,
        "head": 0 if config.tied_head else rows,
        "adapters": tune.lora_rank * sum(sum(shape) for shape in adapted_matrices(config, tune).values()),
    }


def adapted_matrices(config: ModelConfig, tune: TuneConfig) -> dict[str, tuple[int, int]]:
    """The layers with an adapter, by name, and the shape (outputs, inputs) of their matrix."""
    d, queries, keys = config.d_model, q_width(config), kv_width(config)
    shapes = {"attn.q": (queries, d), "attn.k": (keys, d), "attn.v": (keys, d), "attn.out": (d, queries)}
    if tune.lora_matrices == "query-value":
        shapes = {name: shapes[name] for name in ("attn.q", "attn.v")}
    inner = ("mlp.gate", "mlp.up") if config.mlp == "swiglu" else ("mlp.up",)
    feed_forward = dict.fromkeys(inner, (config.d_ff, d)) | {"mlp.down": (d, config.d_ff)}
    shapes = {"all": shapes | feed_forward, "mlp": feed_forward}.get(tune.lora_matrices, shapes)
    return {f"blocks.{layer}.{name}": shape for layer in range(config.n_layer) for name, shape in shapes.items()}


def matrix_parameters(config: ModelConfig) -> int:
    """The number of parameters in the matrices of all blocks."""
    d = config.d_model
    attention = 2 * d * (q_width(config) + kv_width(config))
    feed_forward = (inner_matrices(config) + 1) * d * config.d_ff
    return config.n_layer * (attention + feed_forward)


def q_width(config: ModelConfig) -> int:
    """Total width of all query heads."""
    return config.n_head * head_width(config)


def kv_width(config: ModelConfig) -> int:
    """Total width of all key heads."""
    return config.n_kv_head * head_width(config)


def inner_matrices(config: ModelConfig) -> int:
    """The number of matrices from d_model to d_ff in a feed-forward: gate and up for SwiGLU, else up."""
    return 2 if config.mlp == "swiglu" else 1


def norm_parameters(config: ModelConfig) -> int:
    """The number of parameters in the gain and bias of one normalization."""
    biased = config.norm == "layernorm" and config.bias
    return config.d_model * (config.norm_gain + biased)


def lookup_parameters(config: ModelConfig) -> int:
    """The number of parameters in the token embedding and in a learned position embedding."""
    rows = config.vocab_size + (config.context if config.position == "learned" else 0)
    return rows * config.d_model


def flops_per_token(config: ModelConfig, seq_len: int, tune: TuneConfig = NO_TUNING) -> float:
    """Floating-point operations of forward and backward for one token of a sequence of `seq_len`.

    6·N + 12·L·d·T, as in PaLM (Chowdhery et al. 2022, appendix B). N counts all parameters except the embeddings,
    which are looked up; the head counts, tied or not. Each parameter costs 2 operations forward and 4 backward, or 2
    backward if it is frozen (LoRA) and has no gradient. Attention is counted as if it were not causal, as is usual for
    model FLOPs utilization (MFU).
    """
    head = config.vocab_size * config.d_model
    multiplied = parameters(config) - lookup_parameters(config) + (head if config.tied_head else 0)
    attention = 12.0 * config.n_layer * q_width(config) * seq_len
    if not tune.lora_rank:
        return 6.0 * multiplied + attention
    head_gradient = 2.0 * head if tune.lora_rows else 0.0
    return 4.0 * multiplied + head_gradient + 6.0 * trained_parameters(config, tune)["adapters"] + attention


def kv_cache_bytes(config: ModelConfig, bytes_per_number: int) -> int:
    """Bytes of the keys and values of one sequence as long as the context."""
    return 2 * config.n_layer * kv_width(config) * config.context * bytes_per_number


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    precision: Precision = "fp32",
    optimizer: str = "adamw",
    recompute: Recompute = "none",
    tune: TuneConfig = NO_TUNING,
) -> int:
    """Estimated peak memory of one training step in bytes, accurate to about 25%, without PyTorch itself.

    Weights, gradients, optimizer state, activations saved for the backward pass, and the logits of one chunk
    (`llm.model.loss`). Half precision adds a narrow copy of the weights. With LoRA only the adapters have gradients and
    optimizer state.
    """
    narrow_copy = 0 if precision == "fp32" else 2 * all_parameters(config, tune)
    logits = 3 * MIN_LOGIT_ROWS * config.vocab_size
    return (
        state_bytes(config, optimizer, tune)
        + WEIGHT_BYTES * logits
        + narrow_copy
        + batch_size * seq_len * activation_bytes_per_token(config, seq_len, precision, recompute)
    )


def state_bytes(config: ModelConfig, optimizer: str = "adamw", tune: TuneConfig = NO_TUNING) -> int:
    """Bytes of weights, gradients and optimizer state, which do not depend on the batch size."""
    trained = trained_parameters(config, tune)
    optimizer_state = sum(
        OPTIMIZER_INFO[optimizer_of_group(optimizer, group)].state_tensors * numbers
        for group, numbers in trained.items()
    )
    return WEIGHT_BYTES * (all_parameters(config, tune) + sum(trained.values()) + optimizer_state)


def all_parameters(config: ModelConfig, tune: TuneConfig) -> int:
    """The number of parameters of the model and its adapters."""
    return parameters(config) + (sum(trained_parameters(config, tune).values()) if tune.lora_rank else 0)


def activation_bytes_per_token(
    config: ModelConfig, seq_len: int, precision: Precision, recompute: Recompute = "none"
) -> int:
    """Bytes that the forward pass saves for the backward pass, per token.

    The residual stream and the normalizations are float32; matrix products and the operations between them are narrow
    in half precision. A recomputed part saves its input in each layer, and all of its activations in one layer at a
    time. Attention in bfloat16 or with dropout is counted as on a CPU (`llm.model.blockwise`), which saves a little
    more than a GPU.
    """
    d, narrow = config.d_model, 4 if precision == "fp32" else 2
    norm = (8 if config.norm == "rmsnorm" else 4) * d + narrow * d
    attention = narrow * 2 * (q_width(config) + kv_width(config))
    if precision == "bf16" or config.dropout:
        weights = config.n_head * min(seq_len, (seq_len + BLOCK_ROWS) // 2)
        attention += narrow * (q_width(config) + (weights if seq_len <= MAX_SAVED_POSITIONS else 0))
    hidden = {"swiglu": 4, "gelu": 2, "gelu-exact": 2, "relu2": 3}[config.mlp] * narrow * config.d_ff
    dropout = 3 * narrow * d if config.dropout else 0
    inputs, attention, feed_forward = 4 * d, norm + attention + dropout // 3, norm + hidden + 2 * dropout // 3
    per_layer, recomputed = {
        "none": (attention + feed_forward, 0),
        "attention": (inputs + feed_forward, attention),
        "blocks": (inputs, attention + feed_forward),
    }[recompute]
    return config.n_layer * per_layer + recomputed + norm + 8 * d + (4 * d if config.embedding_conv else 0)
