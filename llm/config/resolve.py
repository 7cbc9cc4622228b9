"""Model shapes with every derived size (0 in the configuration) filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llm.config.schema import ModelConfig, TrainConfig
from llm.errors import ConfigError, Problem


def resolve_model(model: ModelConfig, vocab_size: int) -> ModelConfig:
    """`model` with every 0 and `depth` resolved; `vocab_size` is the tokenizer's. Raises ConfigError.

    depth d: n_layer = d, d_model = 64·d, n_head = ⌈d_model/128⌉ (nanochat's rule). d_ff of SwiGLU: ⌊8·d_model/3⌋
    rounded up to a multiple of `d_ff_multiple`; its three matrices then have about as many parameters as the two of
    a 4·d_model feed-forward.
    """
    problems = shape_problems(model)
    if model.vocab_size and model.vocab_size < vocab_size:
        message = f"must be at least the tokenizer's {vocab_size} ids, not {model.vocab_size}; 0 uses that number"
        problems.append(Problem("model.vocab_size", message))
    if problems:
        raise ConfigError(problems)
    shape = _from_depth(model) if model.depth else model
    return replace(
        shape,
        depth=0,
        n_kv_head=shape.n_kv_head or shape.n_head,
        d_ff=shape.d_ff or _feed_forward_width(shape),
        vocab_size=shape.vocab_size or vocab_size,
    )


def shape_problems(model: ModelConfig) -> list[Problem]:
    """Problems of the shape: heads that do not divide the width, or an odd head width with RoPE."""
    if model.depth:
        width, heads = _depth_shape(model.depth)
        if width % heads:
            depths = " and ".join(str(depth) for depth in _nearest_depths(model.depth))
            fault = f"{model.depth} gives a width of {width}, which is not divisible by its {heads} heads"
            return [Problem("model.depth", f"{fault}; the nearest valid depths are {depths}")]
        model = _from_depth(model)
    problems: list[Problem] = []
    size = head_width(model)
    if model.d_model % model.n_head and not model.head_dim:
        near = nearest_multiple(model.d_model, model.n_head)
        message = (
            f"{model.n_head} does not divide d_model = {model.d_model}; the nearest width that it divides is {near}"
        )
        problems.append(Problem("model.n_head", message))
    elif model.position == "rope" and size % 2:
        name = "model.head_dim" if model.head_dim else "model.n_head"
        problems.append(Problem(name, f"gives heads of width {size}; rotary positions need an even width"))
    if model.embedding_conv == 1:
        problems.append(Problem("model.embedding_conv", "1 would add no other token; the least is 2, and 0 is none"))
    if model.qk_gain and not model.qk_norm:
        problems.append(Problem("model.qk_gain", "is the gain of qk_norm; set model.qk_norm too"))
    if model.n_kv_head and model.n_head % model.n_kv_head:
        message = f"{model.n_kv_head} does not divide n_head = {model.n_head}; 0 uses n_head"
        problems.append(Problem("model.n_kv_head", message))
    return problems


SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "context", "vocab_size")


def check_resolved(model: ModelConfig, sizes: Iterable[str] = SIZES) -> None:
    """ValueError if one of `sizes`, which a part of the model needs, is not resolved or does not divide."""
    needed = set(sizes)
    for name in SIZES:
        if name in needed and getattr(model, name) < 1:
            raise ValueError(f"model.{name} is {getattr(model, name)}: call llm.config.resolve_model first.")
    indivisible = model.d_model % model.n_head and not model.head_dim
    if "n_head" in needed and (indivisible or model.n_head % model.n_kv_head):
        raise ValueError("model.n_head must divide model.d_model, and model.n_kv_head must divide model.n_head.")
    if "n_head" in needed and model.position == "rope" and head_width(model) % 2:
        raise ValueError("Rotary positions need an even head width: change model.n_head or model.d_model.")


def head_width(model: ModelConfig) -> int:
    """Width of one attention head."""
    return model.head_dim or model.d_model // model.n_head


def resolve_seq_len(train: TrainConfig, model: ModelConfig) -> int:
    """Tokens per training sequence: `train.seq_len`, or the model's context."""
    return train.seq_len or model.context


def resolve_accumulation(train: TrainConfig, model: ModelConfig, ranks: int = 1) -> int:
    """Micro-batches per step and rank: `train.accumulation`, or derived from `train.total_batch_tokens`."""
    if not train.total_batch_tokens:
        return train.accumulation
    return train.total_batch_tokens // (smallest_micro_batch(train) * resolve_seq_len(train, model) * ranks)


def smallest_micro_batch(train: TrainConfig) -> int:
    """`train.batch_size`, or 1 where a run chooses it by the memory of its machine."""
    return train.batch_size or 1


def evaluation_batch_size(train: TrainConfig) -> int:
    """Sequences per batch of an evaluation: `train.batch_size`, or the same number on every machine where it is 0."""
    return train.batch_size or TrainConfig.batch_size


def nearest_multiple(value: int, unit: int) -> int:
    """The positive multiple of `unit` nearest to `value`; the larger of two equally near."""
    return max(1, (value + unit // 2) // unit) * unit


def _depth_shape(depth: int) -> tuple[int, int]:
    width = 64 * depth
    return width, -(-width // 128)


def _from_depth(model: ModelConfig) -> ModelConfig:
    width, heads = _depth_shape(model.depth)
    return replace(model, n_layer=model.depth, d_model=width, n_head=heads)


def _nearest_depths(depth: int) -> list[int]:
    """The nearest valid depths below and above. Every even depth is valid: its heads have width 128."""

    def is_valid(candidate: int) -> bool:
        width, heads = _depth_shape(candidate)
        return width % heads == 0

    below = next(candidate for candidate in range(depth - 1, 0, -1) if is_valid(candidate))
    above = next(candidate for candidate in range(depth + 1, depth + 3) if is_valid(candidate))
    return [below, above]


def _feed_forward_width(model: ModelConfig) -> int:
    if model.mlp != "swiglu":
        return 4 * model.d_model
    return -(-(8 * model.d_model // 3) // model.d_ff_multiple) * model.d_ff_multiple
