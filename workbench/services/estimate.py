"""What a configuration means on this machine before anything is loaded: sizes by formula, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from llm.config import ModelConfig, RunConfig, resolve_model, resolve_seq_len
from llm.length import Length, run_length
from llm.model.counts import parameters

KNOWN_VOCABULARIES = {
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
}
TYPICAL_ALPHABET = 100  # characters in plain English text, punctuation and capitals included
BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0}  # text bytes a token stands for; 4 for vocabularies of words and pieces
ACTIVATIONS_PER_POSITION = 34  # numbers kept per layer, position and width unit for backward: Korthikanti et al. 2022
LOGITS_ALIVE = 1 << 22  # the loss makes logits in chunks of about this many numbers


@dataclass(frozen=True)
class Estimate:
    """Sizes of a run. `vocab_is_guess`: the alphabet is known only once the text was read."""

    model: ModelConfig
    parameters: int
    vocab_is_guess: bool
    length: Length
    length_is_guess: bool
    training_bytes: int
    available_bytes: int

    @property
    def total_tokens(self) -> int:
        return self.length.steps * self.length.tokens_per_step

    @property
    def fits(self) -> bool:
        return self.training_bytes <= self.available_bytes


def estimate(config: RunConfig, *, vocab_size: int = 0, train_tokens: int = 0) -> Estimate:
    """Sizes of a run of `config`; `vocab_size` and `train_tokens` where they are known from prepared data, else 0.

    Raises ConfigError where the fields contradict one another.
    """
    vocabulary = vocab_size or expected_vocabulary(config)
    model = resolve_model(config.model, vocabulary)
    tokens = train_tokens or expected_tokens(config)
    length = run_length(config, vocabulary, tokens)
    by_data = bool(config.train.epochs) and not config.train.steps
    return Estimate(
        model=model,
        parameters=parameters(model),
        vocab_is_guess=not vocab_size and config.tokenizer.kind == "char",
        length=length,
        length_is_guess=by_data and not train_tokens,
        training_bytes=training_bytes(config, model),
        available_bytes=psutil.virtual_memory().available,
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


def training_bytes(config: RunConfig, model: ModelConfig) -> int:
    """Memory while training, about: weights, gradients and two moments in float32, and what backward needs.

    Activations after Korthikanti et al. 2022 ("Reducing Activation Recomputation"), without the attention matrix,
    which fused attention never stores.
    """
    positions = config.train.batch_size * resolve_seq_len(config.train, config.model)
    number = 4 if config.train.precision == "fp32" else 2
    activations = positions * model.d_model * model.n_layer * ACTIVATIONS_PER_POSITION * number
    logits = 2 * 4 * min(LOGITS_ALIVE, positions * model.vocab_size)
    return 16 * parameters(model) + activations + logits
