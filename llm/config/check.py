"""Rules between the fields of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm.config.fields import fields_of, validate
from llm.config.resolve import (
    nearest_multiple,
    resolve_accumulation,
    resolve_seq_len,
    shape_problems,
    smallest_micro_batch,
)
from llm.config.schema import RunConfig
from llm.errors import Problem

PATTERNS = ("ours", "gpt2", "gpt4")
PATHS = ("data.corpus", "data.validation", "tokenizer.path", "evaluate.core_path")
MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255  # of Linux, and no smaller elsewhere
LENGTHS = ("steps", "tokens", "epochs", "tokens_per_parameter", "flops", "minutes")
OWN_TOKENIZERS = ("byte", "char", "bpe")  # their only special tokens are the configured ones


def check(config: RunConfig) -> list[Problem]:
    """Every problem of `config`: values out of bounds first, then fields that contradict each other."""
    return [
        *_values(config),
        *_paths(config),
        *shape_problems(config.model),
        *_tokenizer(config),
        *_batch(config),
        *_schedule(config),
        *_stage(config),
    ]


def get_value(config: RunConfig, path: str) -> object:
    """The value at a dotted path; AttributeError if there is no such field."""
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _values(config: RunConfig) -> Iterator[Problem]:
    for field in fields_of(RunConfig):
        try:
            validate(field, get_value(config, field.path))
        except ValueError as error:
            yield Problem(field.path, str(error))
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.train.device):
        yield Problem("train.device", f'must be auto, cpu, cuda, cuda:N or mps, not "{config.train.device}"')
    if not config.data.corpus.strip():
        yield Problem("data.corpus", "is empty; name stories, pylib, or the path of a text file")
    if config.data.corpus == "dialogues" and config.tune.stage == "pretrain":
        yield Problem("data.corpus", "is dialogues, which are for fine-tuning; set tune.stage to sft, or name a text")
    if config.tune.base and config.tune.stage == "pretrain":
        yield Problem("tune.base", "is for fine-tuning; set tune.stage to sft, or leave it empty")


def _paths(config: RunConfig) -> Iterator[Problem]:
    """Of texts that no path can be. A web address may have longer parts."""
    for path in PATHS:
        encoded = str(get_value(config, path)).encode("utf-8", "surrogatepass")
        longest = 0 if b"://" in encoded else max(map(len, encoded.split(b"/")))
        if len(encoded) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
            what = f"a path of {len(encoded):,} bytes" if longest <= MAX_NAME_BYTES else f"a name of {longest:,} bytes"
            yield Problem(path, f"holds {what}, which no file can have; check it")


def _tokenizer(config: RunConfig) -> Iterator[Problem]:
    tokenizer, model = config.tokenizer, config.model
    special = tokenizer.special_tokens
    if len(set(special)) < len(special) or "" in special:
        yield Problem("tokenizer.special_tokens", "must be different from each other and not empty")
    smallest = 256 + len(special)
    if tokenizer.kind == "bpe" and not tokenizer.path:
        if tokenizer.vocab_size < smallest:
            message = f"must be at least {smallest} (256 bytes and the special tokens), not {tokenizer.vocab_size}"
            yield Problem("tokenizer.vocab_size", message)
        if 0 < model.vocab_size < tokenizer.vocab_size:
            least = f"must be at least tokenizer.vocab_size = {tokenizer.vocab_size}"
            yield Problem("model.vocab_size", f"{least}, not {model.vocab_size}; 0 uses that value")
    if not tokenizer.pattern:
        yield Problem("tokenizer.pattern", f"is empty; use {', '.join(PATTERNS)}, or a regular expression")
    if tokenizer.kind == "gpt2-files" and not tokenizer.path:
        yield Problem("tokenizer.path", "is required for gpt2-files: the folder with vocab.json and merges.txt")
    if config.data.boundary != "none" and not special and tokenizer.kind in OWN_TOKENIZERS:
        fault = f'"{config.data.boundary}" needs a separator token'
        yield Problem("data.boundary", f"{fault}; add one to tokenizer.special_tokens, or set this to none")


def _batch(config: RunConfig) -> Iterator[Problem]:
    train, model = config.train, config.model
    if train.seq_len > model.context:
        message = f"{train.seq_len} is longer than model.context = {model.context}; lower it, or raise the context"
        yield Problem("train.seq_len", message)
    if not train.batch_size and not train.total_batch_tokens:
        yield Problem("train.batch_size", "0 needs the tokens per step; set train.total_batch_tokens, or a batch size")
    if not train.batch_size and train.sharding != "ddp":
        yield Problem("train.batch_size", f"0 is not possible with train.sharding = {train.sharding}; set a batch size")
    micro = smallest_micro_batch(train) * resolve_seq_len(train, model)
    if train.total_batch_tokens % micro:
        near = nearest_multiple(train.total_batch_tokens, micro)
        name = "batch_size × seq_len" if train.batch_size else "seq_len"
        message = f"{train.total_batch_tokens} is not a multiple of {name} = {micro}; the nearest is {near}"
        yield Problem("train.total_batch_tokens", message)
    given = [name for name in LENGTHS if getattr(train, name)]
    if not given:
        yield Problem("train.steps", f"the length of the training is not set; set one of {', '.join(LENGTHS)}")
    for name in given[1:]:
        yield Problem(f"train.{name}", f"train.{given[0]} already sets the length; set one of them to 0")


def _schedule(config: RunConfig) -> Iterator[Problem]:
    schedule, lr = config.schedule, config.train.lr
    if schedule.kind != "constant" and schedule.lr_min > lr:
        yield Problem("schedule.lr_min", f"{schedule.lr_min:g} is above the peak train.lr = {lr:g}")
    by_steps, by_share = schedule.decay_steps, schedule.decay_until
    for name in ("warmup_steps", "hold_steps"):
        if by_steps and getattr(schedule, name) > by_steps:
            yield Problem(f"schedule.{name}", f"{getattr(schedule, name)} is after schedule.decay_steps = {by_steps}")
    shares = (("warmup_ratio", schedule.warmup_steps), ("hold_until", schedule.hold_steps))
    for name, steps in shares:
        if not steps and not by_steps and getattr(schedule, name) > by_share:
            message = f"{getattr(schedule, name):g} is after schedule.decay_until = {by_share:g}"
            yield Problem(f"schedule.{name}", message)


def _stage(config: RunConfig) -> Iterator[Problem]:
    if config.evaluate.answers_every and config.tune.stage == "pretrain":
        yield Problem("evaluate.answers_every", "is for fine-tuning; set tune.stage to sft, or this to 0")
    if config.tune.lora_rank and config.tune.stage not in ("sft", "dpo"):
        yield Problem("tune.lora_rank", "is for tune.stage sft and dpo; set this to 0, or the stage to one of them")
    if config.tune.lora_rank and config.train.sharding != "ddp":
        message = f"LoRA trains few weights, which {config.train.sharding} cannot divide among ranks; set it to ddp"
        yield Problem("train.sharding", message)
    if config.tune.stage in ("dpo", "grpo"):
        yield from _reference(config)
    if config.tune.stage == "grpo":
        yield from _groups(config)


def _reference(config: RunConfig) -> Iterator[Problem]:
    """Of the stages that hold the model to a reference."""
    stage = config.tune.stage
    if config.train.sharding != "ddp":
        message = f"{stage} needs whole weights on every process, which {config.train.sharding} does not have"
        yield Problem("train.sharding", f"{message}; set it to ddp")
    if stage == "dpo" and not config.tune.beta:
        yield Problem("tune.beta", "must be above 0 for dpo")
    if stage == "dpo" and config.train.minutes:
        yield Problem("train.minutes", "the speed of dpo is not measured in advance; set train.epochs or train.steps")


def _groups(config: RunConfig) -> Iterator[Problem]:
    """Of grpo, whose answers have any length and whose questions no end."""
    train, group = config.train, config.tune.group
    if not train.steps:
        given = next((name for name in LENGTHS if getattr(train, name)), "steps")
        yield Problem(f"train.{given}", "the length of grpo is given in steps; set train.steps instead")
    if not train.batch_size:
        yield Problem("train.batch_size", "0 is not possible for grpo; set the answers per micro-batch")
    replies = smallest_micro_batch(train) * resolve_accumulation(train, config.model)
    if replies % group:
        message = f"{group} answers to each question do not divide the {replies} answers of a step"
        yield Problem("tune.group", f"{message} (train.batch_size × accumulation); change one of them")
