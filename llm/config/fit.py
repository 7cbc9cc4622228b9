"""A configuration made small enough for a machine and a person's patience, without changing what kind of model it is.

Not imported by `llm.config`, since it needs `llm.model.counts`, which imports that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm.config.check import get_value
from llm.config.parse import diff, with_overrides
from llm.config.resolve import nearest_multiple, resolve_model
from llm.config.schema import ModelConfig, RunConfig, TokenizerConfig
from llm.model.counts import Precision, flops_per_token, parameters, training_bytes
from llm.training.batch_plan import BatchPlan, resolve_batch_plan

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)  # of the width and of the layers
LEAST_CONTEXT, LEAST_VOCABULARY, LEAST_LAYERS, LEAST_KEYS = 256, 2048, 2, 2
ENOUGH_TOKENS_PER_PARAMETER = 10.0
ENOUGH_STEPS = 300
TRAINING_SHARE = 0.8  # of the time; the rest is for evaluating, sampling and saving
EVALUATIONS, EVALUATION_BATCHES = 20, 10  # at most
READY_MADE = {"byte": 257, "char": 128, "tiktoken": 50257, "gpt2-files": 50257}  # about, where the text decides
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
    """Overrides (dotted path, text) with which a run of `config` trains within `minutes` and `memory_bytes` on a
    machine that does `flops_per_second`; none where it does so as it is. `train_tokens` (0: as `data.size_mb` has them)
    is the length of a pass over the text.

    Kept are the architecture, the head width, how queries share keys, the optimiser, the shape of the schedule and,
    where that leaves steps enough, the tokens per step; what shrinks are layers, width, context, a learnt vocabulary,
    the micro-batch (accumulation makes up for it) and the steps. Of the models that shrinking by the same share
    everywhere gives, it is the largest that still sees as many tokens per parameter as the whole run would, or
    ENOUGH_TOKENS_PER_PARAMETER; the smallest, where none does.
    """
    budget = flops_per_second * minutes * 60 * TRAINING_SHARE
    tokens = train_tokens or round(config.data.size_mb * 1e6 / BYTES_PER_TOKEN)
    whole = resolve_batch_plan(config, vocabulary(config.tokenizer), tokens)
    enough = min(ENOUGH_TOKENS_PER_PARAMETER, whole.steps * whole.tokens_per_step / whole.parameters)
    fitted = config
    for shape in shapes(config):
        fitted = with_shape(config, shape, whole, budget, memory_bytes)
        model, seq_len = shape.resolved, min(whole.seq_len, shape.model.context)
        affordable = budget / flops_per_token(model, seq_len)
        if affordable >= enough * parameters(model) and step_bytes(fitted, model, seq_len) <= memory_bytes:
            break
    overrides = differences(config, fitted)
    with_overrides(config, overrides)  # a ConfigError here is a fault of this module
    return overrides


def vocabulary(tokenizer: TokenizerConfig) -> int:
    """Ids of a tokenizer, as far as its configuration tells."""
    return READY_MADE.get(tokenizer.kind, tokenizer.vocab_size)


def shapes(config: RunConfig) -> Iterator[Shape]:
    """The configured model, and ever smaller ones of the same kind."""
    learnt = config.tokenizer.kind in ("bpe", "sentencepiece") and not config.tokenizer.path
    for share in SHARES:
        model, tokenizer = shrunk(config.model, share), config.tokenizer
        if share < 1 and learnt:
            size = tokenizer.vocab_size
            fewer = max(min(size, LEAST_VOCABULARY), nearest_multiple(round(size * share**2), 256))
            model, tokenizer = replace(model, vocab_size=0), replace(tokenizer, vocab_size=min(size, fewer))
        yield Shape(model, tokenizer, resolve_model(model, vocabulary(tokenizer)))


def shrunk(model: ModelConfig, share: float) -> ModelConfig:
    """A model of about this share of the width and of the layers. The width of a head stays, and so does the number
    of queries to a key."""
    if share == 1:
        return model
    context = model.context
    while context % 2 == 0 and context // 2 >= max(LEAST_CONTEXT, model.context * share):
        context //= 2
    model = replace(model, context=context)
    if model.depth:
        return replace(model, depth=min(model.depth, nearest_multiple(round(model.depth * share), 2)))
    keys = model.n_kv_head or model.n_head
    fewer_keys = max(min(keys, LEAST_KEYS), round(keys * share))
    n_head = fewer_keys * (model.n_head // keys)
    d_model = n_head * (model.d_model // model.n_head)
    d_ff = nearest_multiple(round(model.d_ff * d_model / model.d_model), 32) if model.d_ff else 0
    return replace(
        model,
        n_layer=max(min(model.n_layer, LEAST_LAYERS), round(model.n_layer * share)),
        d_model=d_model,
        n_head=n_head,
        n_kv_head=fewer_keys if model.n_kv_head else 0,
        d_ff=d_ff,
    )


def with_shape(config: RunConfig, shape: Shape, whole: BatchPlan, budget: float, memory_bytes: float) -> RunConfig:
    """`config` with that model, and as many steps as the budget of operations pays for, but no more than before."""
    seq_len = min(whole.seq_len, shape.model.context)
    tokens = budget / flops_per_token(shape.resolved, seq_len)
    rows = max(1, whole.tokens_per_step // seq_len)
    streams = max(1, config.data.streams)
    while rows % (2 * streams) == 0 and tokens / (rows * seq_len) < min(ENOUGH_STEPS, whole.steps):
        rows //= 2
    steps = max(1, min(whole.steps, int(tokens / (rows * seq_len))))
    train = replace(
        config.train,
        steps=steps,
        tokens=0,
        epochs=0.0,
        tokens_per_parameter=0.0,
        flops=0.0,
        seq_len=seq_len if config.train.seq_len else 0,
        precision="auto" if config.train.precision != "fp32" else "fp32",
        log_every=scaled(config.train.log_every, steps, whole.steps),
    )
    if steps == whole.steps and shape.model == config.model:
        train = config.train
    fitted = replace(with_intervals(config, steps, whole.steps), model=shape.model, tokenizer=shape.tokenizer)
    for size in range(min(rows, config.train.batch_size), 0, -1):
        if rows % size:
            continue
        total = rows * seq_len if config.train.total_batch_tokens else 0
        accumulation = config.train.accumulation if total else rows // size
        batch = replace(train, batch_size=size, accumulation=accumulation, total_batch_tokens=total)
        fitted = replace(fitted, train=batch)
        if step_bytes(fitted, shape.resolved, seq_len) <= memory_bytes:
            break
    return fitted


def with_intervals(config: RunConfig, steps: int, before: int) -> RunConfig:
    """Warm-up and everything that happens every so many steps, in proportion to a length that was `before`.

    Evaluations become fewer than that, for they take their time whatever the length; and neither samples nor
    checkpoints come more often than they do.
    """
    if steps == before:
        return config
    every = max(scaled(config.evaluate.every, steps, before), steps // EVALUATIONS if config.evaluate.every else 0)
    batches = min(config.evaluate.batches or EVALUATION_BATCHES, EVALUATION_BATCHES)

    def seldom(interval: int) -> int:
        return max(scaled(interval, steps, before), every) if interval else 0

    momentum_warmup = scaled(config.optim.momentum_warmup_steps, steps, before)
    return replace(
        config,
        optim=replace(config.optim, momentum_warmup_steps=momentum_warmup),
        schedule=replace(
            config.schedule,
            warmup_steps=scaled(config.schedule.warmup_steps, steps, before),
            hold_steps=scaled(config.schedule.hold_steps, steps, before),
            decay_steps=scaled(config.schedule.decay_steps, steps, before),
        ),
        evaluate=replace(config.evaluate, every=every, batches=batches),
        checkpoint=replace(config.checkpoint, every=seldom(config.checkpoint.every)),
        sample=replace(config.sample, every=seldom(config.sample.every)),
    )


def scaled(interval: int, steps: int, before: int) -> int:
    """An interval in proportion; 0, which means never or automatic, stays 0."""
    return max(1, round(interval * steps / before)) if interval else 0


def step_bytes(config: RunConfig, model: ModelConfig, seq_len: int) -> int:
    """Memory of one micro-batch's step, about."""
    precision: Precision = "bf16" if config.train.precision == "auto" else config.train.precision
    return training_bytes(model, config.train.batch_size, seq_len, precision=precision, optimizer=config.optim.kind)


def differences(config: RunConfig, fitted: RunConfig) -> Overrides:
    """What of `fitted` differs, as a person would type it."""
    return [(path, written(get_value(fitted, path))) for path, _, _ in diff(config, fitted)]


def written(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
