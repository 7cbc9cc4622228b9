"""The saved form of a tokenizer: a directory with `tokenizer.json` and tables in plain text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.errors import UserError
from llm.files import read_json

FORMAT_VERSION = 1
RECORD = "tokenizer.json"
RANKS = "ranks.tiktoken"
TEMPLATE = "chat_template"
"""The key of the chat template in the record."""
MAX_RECORD_BYTES = 64 << 20  # Hugging Face's file of the same name can be large


def is_saved_here(directory: Path) -> bool:
    """Whether `directory` holds a tokenizer in this form (Hugging Face uses the name tokenizer.json too)."""
    path = directory / RECORD
    if not path.is_file():
        return False
    record = read_json(path, MAX_RECORD_BYTES)
    return isinstance(record, dict) and "format_version" in record and "kind" in record


def read_record(directory: Path) -> dict[str, Any]:
    """The record in `directory`. UserError if it is not one, or is of a newer version."""
    path = directory / RECORD
    record = read_json(path, MAX_RECORD_BYTES)
    if not isinstance(record, dict) or not isinstance(record.get("format_version"), int) or "kind" not in record:
        raise UserError(f"{path} is not a tokenizer of this program; name a directory that it wrote.")
    if record["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{path} was written by a newer version (format {record['format_version']}, this one reads up to "
            f"{FORMAT_VERSION}); update the program to load it."
        )
    return record


def read_special_tokens(record: Mapping[str, Any]) -> dict[str, int]:
    """The special tokens of a record, in order; ValueError unless they are texts with distinct ids."""
    special_tokens = record["special_tokens"]
    if not isinstance(special_tokens, dict) or not all(type(value) is int for value in special_tokens.values()):
        raise ValueError("special_tokens is not a table of ids")
    if len(set(special_tokens.values())) != len(special_tokens) or "" in special_tokens:
        raise ValueError("special_tokens has an empty text or a repeated id")
    return special_tokens


def dump_ranks(ranks: Mapping[bytes, int]) -> bytes:
    """A token table as text, one line per token: its bytes in base64, a space, its id (tiktoken's format)."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def parse_ranks(content: bytes) -> dict[bytes, int]:
    """Inverse of `dump_ranks`; ValueError names an invalid line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number} of the token table is damaged") from None
    return ranks
