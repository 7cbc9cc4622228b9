"""What decides the tokens of a dataset: its settings for the index, and the fingerprint that names its folder.

Datasets of earlier versions must be found again: the fingerprint of a given configuration never changes.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm.config import defaults_of_0_1_0
from llm.config.schema import DataConfig, RunConfig
from llm.data.text.corpora import BUILT_IN, digest, separator_of

if TYPE_CHECKING:
    from llm.tokenizer import Tokenizer

VERSION = 1
DATA_SETTINGS = (
    "corpus", "validation", "format", "size_mb", "seed", "text_field", "validation_fraction", "split", "boundary",
    "chunk_tokens",
)  # fmt: skip
"""The fields of DataConfig that decide the tokens."""
PATH_SETTINGS = ("corpus", "validation")  # the same text under another name has the same dataset
ADDED_FIELDS = {"train_sample": "beginning", "pattern": "ours", "ties": "ids"}
"""Tokenizer fields added after 0.1.0, with the value that means what 0.1.0 did."""


def dataset_fingerprint(corpus: str, config: RunConfig, tokenizer: Tokenizer | None) -> str:
    """The name of a dataset: 32 hexadecimal digits. `corpus` is the fingerprint of the text or the token files;
    `tokenizer` is None if it is trained on the text."""
    data = config.data
    return digest(
        str(VERSION),
        corpus,
        json.dumps(training_settings(config)) if tokenizer is None else tokenizer.fingerprint(),
        data.split,
        repr(data.validation_fraction),
        data.boundary,
        separator_of(config),
        *([f"chunks of {data.chunk_tokens}"] if data.chunk_tokens else []),
    )[:32]


def training_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide a tokenizer trained on the text. Later fields with the 0.1.0 value are left out."""
    settings = asdict(config.tokenizer)
    if config.data.corpus in BUILT_IN or config.tokenizer.kind == "char":
        settings["train_sample"] = "beginning"
    return {name: value for name, value in settings.items() if ADDED_FIELDS.get(name) != value}


def index_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a dataset as its index records them under `made_with`."""
    settings: dict[str, Any] = {"data": asdict(config.data), "tokenizer": asdict(config.tokenizer)}
    return settings | ({} if config.tune.stage == "pretrain" else {"stage": config.tune.data_stage})


def token_settings(made_with: dict[str, Any], without: Collection[str] = ()) -> str:
    """The settings that decide the tokens, out of those in an index, as one text to compare; `without` these fields of
    DataConfig. A setting that is not recorded had its default."""
    data = asdict(DataConfig()) | made_with["data"]
    tokenizer = asdict(defaults_of_0_1_0().tokenizer) | made_with["tokenizer"]
    stage = made_with.get("stage", "pretrain")
    return json.dumps([[data[name] for name in DATA_SETTINGS if name not in without], tokenizer, stage], sort_keys=True)
