"""Sampling parameters as transformers' generation_config.json."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm.config import DecodeConfig, fields_of
from llm.config.fields import validate
from llm.interop.imported import read_json_file
from llm.interop.source import end_token_id, eos_token_ids
from llm.tokenizer import Tokenizer

Json = dict[str, Any]

DECODE_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "epsilon_cutoff": "epsilon_cutoff",
    "eta_cutoff": "eta_cutoff",
    "max_new_tokens": "max_tokens",
}
"""generation_config.json -> `DecodeConfig`."""


def generation_config(decode: DecodeConfig, tokenizer: Tokenizer) -> Json:
    """The run's sampling parameters that transformers has too."""
    record: Json = {
        "bos_token_id": tokenizer.separator,
        "eos_token_id": eos_token_ids(tokenizer),
        "pad_token_id": end_token_id(tokenizer),
        "max_new_tokens": decode.max_tokens,
        "do_sample": decode.temperature > 0,
    }
    if decode.temperature > 0:
        record |= {"temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}
        record |= {"min_p": decode.min_p} if decode.min_p else {}
        record |= {"typical_p": decode.typical_p} if decode.typical_p < 1 else {}
        record |= {"epsilon_cutoff": decode.epsilon_cutoff} if decode.epsilon_cutoff else {}
        record |= {"eta_cutoff": decode.eta_cutoff} if decode.eta_cutoff else {}
    record |= {"repetition_penalty": decode.repetition_penalty} if decode.repetition_penalty != 1 else {}
    record |= {"no_repeat_ngram_size": decode.no_repeat_ngram} if decode.no_repeat_ngram else {}
    return record


def read_decode(folder: Path) -> DecodeConfig:
    """The sampling parameters of generation_config.json; the defaults where there is none, or a value is unusable."""
    path = folder / "generation_config.json"
    record = read_json_file(path) if path.is_file() else {}
    decode = DecodeConfig()
    known = {field.name: field for field in fields_of(DecodeConfig)}
    for theirs, ours in DECODE_NAMES.items():
        with suppress(ValueError):
            decode = replace(decode, **{ours: validate(known[ours], record.get(theirs))})
    return replace(decode, temperature=0.0) if record.get("do_sample") is False else decode
