"""tiktoken's encodings, read from its cache on this computer. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.errors import UserError, WrongUse
from llm.names import did_you_mean
from llm.reader import read_bytes
from llm.tokenizer.gpt2files import parse_gpt2_files
from llm.tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from llm.tokenizer.ranks import MAX_TABLE_BYTES, RankTokenizer
from llm.tokenizer.saved import parse_ranks
from llm.tokenizer.special_tokens import with_special_tokens

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class CachedFile:
    """A file in tiktoken's cache; its name there is the sha1 of its URL."""

    url: str
    sha256: str

    def read(self, cache: Path) -> bytes | None:
        """The content; None if it is not in the cache. ValueError if it cannot be read or is damaged."""
        path = cache / hashlib.sha1(self.url.encode()).hexdigest()
        try:
            content = read_bytes(path, MAX_TABLE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"{path} is damaged: its sha256 differs")
        return content


@dataclass(frozen=True)
class Encoding:
    """The definition of one of tiktoken's encodings."""

    pattern: str
    special_tokens: Mapping[str, int]
    files: tuple[CachedFile, ...]
    """One table of ranks, or GPT-2's two files: the vocabulary, then the merges."""


_HOST = "https://openaipublic.blob.core.windows.net"
_P50K = CachedFile(
    f"{_HOST}/encodings/p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
)
_R50K = CachedFile(
    f"{_HOST}/encodings/r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
)
_CL100K = CachedFile(
    f"{_HOST}/encodings/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
)
_O200K = CachedFile(
    f"{_HOST}/encodings/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
)
_GPT2 = (
    CachedFile(
        f"{_HOST}/gpt-2/encodings/main/encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    CachedFile(
        f"{_HOST}/gpt-2/encodings/main/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
)

ENCODINGS: Mapping[str, Encoding] = {
    "gpt2": Encoding(GPT2_PATTERN, {END_OF_TEXT: 50256}, _GPT2),
    "r50k_base": Encoding(GPT2_PATTERN, {END_OF_TEXT: 50256}, (_R50K,)),
    "p50k_base": Encoding(GPT2_PATTERN, {END_OF_TEXT: 50256}, (_P50K,)),
    "cl100k_base": Encoding(
        CL100K_PATTERN,
        {
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        (_CL100K,),
    ),
    "o200k_base": Encoding(O200K_PATTERN, {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}, (_O200K,)),
}


def load_encoding(name: str, special_tokens: Sequence[str] = ()) -> RankTokenizer:
    """The tiktoken encoding `name`, with missing `special_tokens` added.

    WrongUse for an unknown name; UserError if tiktoken's cache does not have the files, or has damaged ones.
    """
    encoding = ENCODINGS.get(name)
    if encoding is None:
        hint = did_you_mean(name, ENCODINGS) or f"use one of {', '.join(ENCODINGS)}"
        raise WrongUse(f"There is no tiktoken encoding {name!r}; {hint}")
    cache = cache_directory()
    try:
        contents = [file.read(cache) for file in encoding.files]
    except ValueError as error:
        raise UserError(
            f"The copy of the tiktoken encoding {name!r} cannot be used ({error}), and is not downloaded again; "
            + download_advice(name)
        ) from error
    present = [content for content in contents if content is not None]
    if len(present) < len(contents):
        raise UserError(
            f"The tiktoken encoding {name!r} is not in {cache}, and is not downloaded automatically; "
            + download_advice(name)
        )
    ranks = parse_gpt2_files(*present)[0] if len(present) == 2 else parse_ranks(present[0])
    next_id = max([*ranks.values(), *encoding.special_tokens.values()]) + 1
    specials = with_special_tokens(encoding.special_tokens, special_tokens, next_id)
    return RankTokenizer("tiktoken", ranks, specials, encoding.pattern)


def download_advice(name: str) -> str:
    """How to download an encoding; tiktoken replaces a damaged copy."""
    return (
        f"on a machine with a connection run  python -c \"import tiktoken; tiktoken.get_encoding('{name}')\"  and, if "
        "that is another machine, set TIKTOKEN_CACHE_DIR to a copy of its cache."
    )


def cache_directory() -> Path:
    """The folder in which tiktoken looks for its cache."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(variable):
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir()) / "data-gym-cache"
