"""The presets of the five documents, as the tests load them."""

from __future__ import annotations

from pathlib import Path

from llm.config import ModelConfig, RunConfig, load_preset, resolve_model

HOME = Path("/nonexistent")


def preset(name: str, **overrides: str) -> RunConfig:
    return load_preset(name, HOME, [(path.replace("__", "."), text) for path, text in overrides.items()])


def shape(config: RunConfig, vocab_size: int = 0) -> ModelConfig:
    return resolve_model(config.model, vocab_size or config.model.vocab_size)
