"""Sizes of a run, computed from its configuration without torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from llm.config import ModelConfig, RunConfig, resolve_model
from llm.config.fit import Overrides, expected_vocab_size, fit, step_bytes
from llm.files import expand_user
from llm.limits import memory
from llm.model.counts import parameters
from llm.training.batch_plan import BatchPlan, resolve_batch_plan

BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0}  # of text; 4 for tokenizers with subwords
PROGRAM_BYTES = 400_000_000  # memory of torch and the workbench without a model, measured on a CPU
MEMORY_SHARE = 0.9  # of the free memory; other programs get the rest
UNLIMITED_MINUTES = 1e9


@dataclass(frozen=True)
class Estimate:
    """Sizes of a run. `vocab_is_guess`: the size of a character vocabulary is unknown until the text is read."""

    model: ModelConfig
    parameters: int
    vocab_is_guess: bool
    batch_plan: BatchPlan
    length_is_guess: bool
    training_bytes: int
    available_bytes: int

    @property
    def total_tokens(self) -> int:
        return self.batch_plan.steps * self.batch_plan.tokens_per_step

    @property
    def fits(self) -> bool:
        return self.training_bytes <= MEMORY_SHARE * self.available_bytes


def estimate(
    config: RunConfig, *, vocab_size: int = 0, train_tokens: int = 0, flops_per_second: float = 0.0
) -> Estimate:
    """Sizes of a run of `config`. `vocab_size` and `train_tokens` come from prepared data, `flops_per_second` from a
    measurement on this machine; 0 if unknown.

    Raises ConfigError if fields contradict each other.
    """
    vocabulary = vocab_size or expected_vocab_size(config.tokenizer)
    model = resolve_model(config.model, vocabulary)
    tokens = train_tokens or expected_tokens(config)
    batch_plan = resolve_batch_plan(config, vocabulary, tokens, config.train.nproc, flops_per_second=flops_per_second)
    by_data = bool(config.train.epochs) and not config.train.steps
    return Estimate(
        model=model,
        parameters=parameters(model),
        vocab_is_guess=not vocab_size and config.tokenizer.kind == "char",
        batch_plan=batch_plan,
        length_is_guess=bool(config.train.minutes) or (by_data and not train_tokens),
        training_bytes=step_bytes(config, model, batch_plan.seq_len),
        available_bytes=available_bytes(),
    )


def expected_tokens(config: RunConfig) -> int:
    """The number of training tokens, estimated from the size of the corpus."""
    size = corpus_bytes(config)
    return int(size * (1 - config.data.validation_fraction) / BYTES_PER_TOKEN.get(config.tokenizer.kind, 4.0))


def corpus_bytes(config: RunConfig) -> float:
    path = expand_user(config.data.corpus)
    if path.is_file():
        return path.stat().st_size
    return config.data.size_mb * 1e6


def available_bytes() -> int:
    """Bytes of memory that a run could use: the free GPU memory if torch has found a GPU, else the free memory minus
    that of the program itself."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return max(0, memory().available - (0 if torch is not None else PROGRAM_BYTES))


def fitting_overrides(config: RunConfig, flops_per_second: float, minutes: float = 0.0) -> Overrides:
    """The overrides that make `config` fit into the memory of this machine and, unless 0, into `minutes`; empty if it
    already fits."""
    budget = available_bytes() * MEMORY_SHARE
    return fit(config, budget, flops_per_second, minutes or UNLIMITED_MINUTES, expected_tokens(config))
