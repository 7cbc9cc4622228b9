"""The index of a prepared dataset as the Data screen shows it, without reading the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DatasetSizes:
    """Sizes of a prepared dataset, training and validation together, and the share for validation."""

    tokens: int
    text_bytes: int
    validation_share: float

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / self.tokens if self.tokens else 0.0


def check_index(record: Mapping[str, Any]) -> None:
    """Raise one of `WRONG_SHAPE` if the index of a prepared dataset is damaged."""
    sizes = [record["splits"][split][name] for split in ("train", "validation") for name in ("tokens", "bytes")]
    sentences = [record.get(name, []) for name in ("notes", "warnings")]
    made_with = record.get("made_with", {})
    tables = [made_with, *(made_with[name] for name in ("data", "tokenizer") if made_with)]
    is_valid = all(type(size) is int for size in sizes) and all(isinstance(table, dict) for table in tables)
    if not is_valid or not all(isinstance(text, str) for texts in sentences for text in texts):
        raise TypeError("values of other kinds")
    dataset_sizes(record)


def dataset_sizes(record: Mapping[str, Any]) -> DatasetSizes:
    """The sizes in the index of a prepared dataset. Raises KeyError or TypeError if it is damaged."""
    train, held_out = record["splits"]["train"], record["splits"]["validation"]
    text_bytes = int(train["bytes"]) + int(held_out["bytes"])
    tokens = int(train["tokens"]) + int(held_out["tokens"])
    return DatasetSizes(tokens, text_bytes, int(held_out["tokens"]) / tokens if tokens else 0.0)
