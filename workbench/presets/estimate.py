"""What a configuration means on this machine before anything is loaded: sizes by formula, no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from llm.config import ModelConfig, RunConfig, resolve_model
from llm.config.fit import Overrides, fit, step_bytes
from llm.limits import memory
from llm.model.counts import parameters
from llm.training.batch_plan import BatchPlan, resolve_batch_plan

KNOWN_VOCABULARIES = {
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
}
TYPICAL_ALPHABET = 100  # characters in plain English text, punctuation and capitals included
BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0}  # text bytes a token stands for; 4 for vocabularies of words and pieces
PROGRAM_BYTES = 400_000_000  # of torch and the workbench, next to a small model on a CPU; about, as measured
MEMORY_SHARE = 0.9  # of the free memory; the rest is for whatever else wants some
UNLIMITED_MINUTES = 1e9
USUAL_FLOPS = 5e10  # FLOP/s that two CPU cores train with, about; until a preflight has measured it


@dataclass(frozen=True)
class Estimate:
    """Sizes of a run. `vocab_is_guess`: the alphabet is known only once the text was read."""

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


def estimate(config: RunConfig, *, vocab_size: int = 0, train_tokens: int = 0) -> Estimate:
    """Sizes of a run of `config`; `vocab_size` and `train_tokens` where they are known from prepared data, else 0.

    Raises ConfigError where the fields contradict one another.
    """
    vocabulary = vocab_size or expected_vocabulary(config)
    model = resolve_model(config.model, vocabulary)
    tokens = train_tokens or expected_tokens(config)
    batch_plan = resolve_batch_plan(config, vocabulary, tokens)
    by_data = bool(config.train.epochs) and not config.train.steps
    return Estimate(
        model=model,
        parameters=parameters(model),
        vocab_is_guess=not vocab_size and config.tokenizer.kind == "char",
        batch_plan=batch_plan,
        length_is_guess=by_data and not train_tokens,
        training_bytes=step_bytes(config, model, batch_plan.seq_len),
        available_bytes=available_bytes(),
    )


def expected_vocabulary(config: RunConfig) -> int:
    """The tokenizer's size as far as the configuration tells."""
    tokenizer = config.tokenizer
    if tokenizer.kind == "byte":
        return 256 + len(tokenizer.special_tokens)
    if tokenizer.kind == "char":
        return TYPICAL_ALPHABET
    if tokenizer.kind == "tiktoken":
        return KNOWN_VOCABULARIES.get(tokenizer.encoding, 50257)
    return 50257 if tokenizer.kind == "gpt2-files" else tokenizer.vocab_size


def expected_tokens(config: RunConfig) -> int:
    """Training tokens as far as the configuration tells: from the corpus's size, at the usual bytes per token."""
    size = corpus_bytes(config)
    return int(size * (1 - config.data.validation_fraction) / BYTES_PER_TOKEN.get(config.tokenizer.kind, 4.0))


def corpus_bytes(config: RunConfig) -> float:
    path = Path(config.data.corpus).expanduser()
    if path.is_file():
        return path.stat().st_size
    return config.data.size_mb * 1e6


def available_bytes() -> int:
    """Memory that a run could have: of the GPU where torch has found one, else what this process may still get
    besides the program itself."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return max(0, memory().available - (0 if torch is not None else PROGRAM_BYTES))


def nearest_that_fits(config: RunConfig, flops_per_second: float, minutes: float = 0.0) -> Overrides:
    """What to change so that a run of `config` fits into this machine's memory, and into `minutes` if that is not 0;
    nothing where it does as it is."""
    memory, minutes = available_bytes() * MEMORY_SHARE, minutes or UNLIMITED_MINUTES
    return fit(config, memory, flops_per_second, minutes, expected_tokens(config))
