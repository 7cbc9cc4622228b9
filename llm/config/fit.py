"""Shrinks a configuration to a machine's memory and a time limit, without changing the architecture.

`llm.config` does not import it, since it needs `llm.model.counts`, which imports `llm.config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm.config.check import get_value
from llm.config.parse import diff, with_overrides
from llm.config.resolve import nearest_multiple, resolve_model, smallest_micro_batch
from llm.config.schema import ModelConfig, RunConfig, TokenizerConfig
from llm.model.counts import Precision, flops_per_token, parameters, training_bytes
from llm.training.batch_plan import BatchPlan, resolve_batch_plan

SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)  # of width and layers
MIN_CONTEXT, MIN_VOCAB_SIZE, MIN_LAYERS, MIN_KV_HEADS = 256, 2048, 2, 2
MIN_TOKENS_PER_PARAMETER = 10.0
MIN_STEPS = 300
TRAINING_TIME_SHARE = 0.8  # the rest is for evaluation, samples and checkpoints
MAX_EVALUATIONS, MAX_EVALUATION_BATCHES = 20, 10
TYPICAL_ALPHABET = 100  # characters in plain English text, punctuation and capitals included
GPT2_VOCAB_SIZE = 50257
VOCAB_SIZES = {"p50k_base": 50281, "cl100k_base": 100277, "o200k_base": 200019}  # of other tiktoken encodings
BYTES_PER_TOKEN = 4.0

Overrides = list[tuple[str, str]]


@dataclass(frozen=True)
class Shape:
    """A candidate: the model section, the tokenizer section, and the model it resolves to."""

    model: ModelConfig
    tokenizer: TokenizerConfig
    resolved: ModelConfig


def fit(
    config: RunConfig, memory_bytes: float, flops_per_second: float, minutes: float, train_tokens: int = 0
) -> Overrides:
    """Overrides (dotted path, text) with which `config` trains within `minutes` and `memory_bytes` on a machine of
    `flops_per_second`; none if it already does. `train_tokens` (0: estimated from `data.size_mb`) is the length of one
    epoch.

    Layers, width, context, a trained vocabulary, the micro-batch (accumulation compensates) and the steps shrink. The
    architecture, the head width, the queries per key head, the optimizer and the shape of the schedule stay; so do the
    tokens per step if enough steps remain. Of the models scaled down by SCALES, the result is the largest that sees as
    many tokens per parameter as the original run, or MIN_TOKENS_PER_PARAMETER; the smallest if none does.
    """
    budget = flops_per_second * minutes * 60 * TRAINING_TIME_SHARE
    tokens = train_tokens or round(config.data.size_mb * 1e6 / BYTES_PER_TOKEN)
    original = resolve_batch_plan(
        config, expected_vocab_size(config.tokenizer), tokens, flops_per_second=flops_per_second
    )
    enough = min(MIN_TOKENS_PER_PARAMETER, original.steps * original.tokens_per_step / original.parameters)
    fitted = config
    for shape in shapes(config):
        fitted = with_shape(config, shape, original, budget, memory_bytes)
        model, seq_len = shape.resolved, min(original.seq_len, shape.model.context)
        affordable = budget / flops_per_token(model, seq_len, config.tune)
        if affordable >= enough * parameters(model) and step_bytes(fitted, model, seq_len) <= memory_bytes:
            break
    overrides = overrides_between(config, fitted)
    with_overrides(config, overrides)  # a ConfigError here is a bug in this module
    return overrides


def expected_vocab_size(tokenizer: TokenizerConfig) -> int:
    """The vocabulary size that the settings of a tokenizer imply; of characters, a typical one."""
    sizes = {
        "byte": 256 + len(tokenizer.special_tokens),
        "char": TYPICAL_ALPHABET,
        "tiktoken": VOCAB_SIZES.get(tokenizer.encoding, GPT2_VOCAB_SIZE),
        "gpt2-files": GPT2_VOCAB_SIZE,
    }
    return sizes.get(tokenizer.kind, tokenizer.vocab_size)


def shapes(config: RunConfig) -> Iterator[Shape]:
    """The configured model, and smaller ones of the same architecture in decreasing size."""
    is_trained = config.tokenizer.kind in ("bpe", "sentencepiece") and not config.tokenizer.path
    for share in SCALES:
        model, tokenizer = shrink(config.model, share), config.tokenizer
        if share < 1 and is_trained:
            size = tokenizer.vocab_size
            fewer = max(min(size, MIN_VOCAB_SIZE), nearest_multiple(round(size * share**2), 256))
            model, tokenizer = replace(model, vocab_size=0), replace(tokenizer, vocab_size=min(size, fewer))
        yield Shape(model, tokenizer, resolve_model(model, expected_vocab_size(tokenizer)))


def shrink(model: ModelConfig, share: float) -> ModelConfig:
    """`model` with about this share of its width and layers; head width and queries per key head stay."""
    if share == 1:
        return model
    context = model.context
    while context % 2 == 0 and context // 2 >= max(MIN_CONTEXT, model.context * share):
        context //= 2
    model = replace(model, context=context)
    if model.depth:
        return replace(model, depth=min(model.depth, nearest_multiple(round(model.depth * share), 2)))
    keys = model.n_kv_head or model.n_head
    fewer_keys = max(min(keys, MIN_KV_HEADS), round(keys * share))
    n_head = fewer_keys * (model.n_head // keys)
    d_model = n_head * (model.d_model // model.n_head)
    d_ff = nearest_multiple(round(model.d_ff * d_model / model.d_model), 32) if model.d_ff else 0
    return replace(
        model,
        n_layer=max(min(model.n_layer, MIN_LAYERS), round(model.n_layer * share)),
        d_model=d_model,
        n_head=n_head,
        n_kv_head=fewer_keys if model.n_kv_head else 0,
        d_ff=d_ff,
    )


def with_shape(config: RunConfig, shape: Shape, original: BatchPlan, budget: float, memory_bytes: float) -> RunConfig:
    """`config` with that model, as many steps as a budget of operations allows (at most the original number), and the
    largest micro-batch that fits."""
    seq_len = min(original.seq_len, shape.model.context)
    tokens = budget / flops_per_token(shape.resolved, seq_len, config.tune)
    rows = max(1, original.tokens_per_step // seq_len)
    streams = max(1, config.data.streams)
    while rows % (2 * streams) == 0 and tokens / (rows * seq_len) < min(MIN_STEPS, original.steps):
        rows //= 2
    steps = max(1, min(original.steps, int(tokens / (rows * seq_len))))
    train = replace(
        config.train,
        steps=steps,
        tokens=0,
        epochs=0.0,
        tokens_per_parameter=0.0,
        flops=0.0,
        minutes=0.0,
        seq_len=seq_len if config.train.seq_len else 0,
        precision="auto" if config.train.precision != "fp32" else "fp32",
        log_every=scale_interval(config.train.log_every, steps, original.steps),
    )
    if steps == original.steps and shape.model == config.model:
        train = config.train
    fitted = replace(with_intervals(config, steps, original.steps), model=shape.model, tokenizer=shape.tokenizer)
    divisors = [size for size in range(min(rows, config.train.batch_size), 0, -1) if rows % size == 0]
    for size in divisors or [0]:
        total = rows * seq_len if config.train.total_batch_tokens else 0
        accumulation = config.train.accumulation if total else rows // size
        batch = replace(train, batch_size=size, accumulation=accumulation, total_batch_tokens=total)
        fitted = replace(fitted, train=batch)
        if step_bytes(fitted, shape.resolved, seq_len) <= memory_bytes:
            break
    return fitted


def with_intervals(config: RunConfig, steps: int, before: int) -> RunConfig:
    """`config` with warm-up and intervals scaled from `before` to `steps` steps.

    There are at most MAX_EVALUATIONS evaluations, since their time does not shrink; samples and checkpoints are not
    more frequent than evaluations.
    """
    if steps == before:
        return config
    every = max(
        scale_interval(config.evaluate.every, steps, before), steps // MAX_EVALUATIONS if config.evaluate.every else 0
    )
    batches = min(config.evaluate.batches or MAX_EVALUATION_BATCHES, MAX_EVALUATION_BATCHES)

    def no_more_often(interval: int) -> int:
        return max(scale_interval(interval, steps, before), every) if interval else 0

    momentum_warmup = scale_interval(config.optim.momentum_warmup_steps, steps, before)
    return replace(
        config,
        optim=replace(config.optim, momentum_warmup_steps=momentum_warmup),
        schedule=replace(
            config.schedule,
            warmup_steps=scale_interval(config.schedule.warmup_steps, steps, before),
            hold_steps=scale_interval(config.schedule.hold_steps, steps, before),
            decay_steps=scale_interval(config.schedule.decay_steps, steps, before),
        ),
        evaluate=replace(config.evaluate, every=every, batches=batches),
        checkpoint=replace(config.checkpoint, every=no_more_often(config.checkpoint.every)),
        sample=replace(config.sample, every=no_more_often(config.sample.every)),
    )


def scale_interval(interval: int, steps: int, before: int) -> int:
    """`interval` scaled from `before` to `steps` steps; 0 (never or automatic) stays 0."""
    return max(1, round(interval * steps / before)) if interval else 0


def step_bytes(config: RunConfig, model: ModelConfig, seq_len: int) -> int:
    """Estimated memory in bytes of a training step with one micro-batch."""
    precision: Precision = "bf16" if config.train.precision == "auto" else config.train.precision
    return training_bytes(
        model,
        smallest_micro_batch(config.train),
        seq_len,
        precision=precision,
        optimizer=config.optim.kind,
        recompute=config.train.recompute,
        tune=config.tune,
    )


def overrides_between(config: RunConfig, fitted: RunConfig) -> Overrides:
    """The fields of `fitted` that differ, as overrides."""
    return [(path, to_text(get_value(fitted, path))) for path, _, _ in diff(config, fitted)]


def to_text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
