"""The interface of all tokenizers (`Tokenizer`), and their common base class (`BaseTokenizer`).

Every id has its bytes; those of a special token are empty. Decoding joins the bytes and reads them as UTF-8, so an id
may be a part of a character. The kinds of tokenizers differ only in how they encode.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from llm.files import write_atomic, write_json
from llm.tokenizer.chat_template import ChatTemplate
from llm.tokenizer.cuts import FindCut, chunks, last_safe_cut
from llm.tokenizer.saved import FORMAT_VERSION, RECORD, TEMPLATE
from llm.tokenizer.special_tokens import number_special_tokens, special_pattern
from llm.tokenizer.stream import StreamDecoder

Ids = NDArray[np.uint32]
Progress = Callable[[float, float], None]
"""progress(done, total)."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    kind: str
    vocab_size: int
    special_tokens: Mapping[str, int]
    """Text of each special token -> its id."""
    separator: int | None
    """The id between documents (GPT-2's <|endoftext|>): the first special token, None without one."""
    stop_ids: frozenset[int]
    """Ids that end a generated text (transformers' `eos_token_id`)."""
    dummy_prefix: bytes
    """Bytes that encoding adds before every text and decoding removes (SentencePiece's `add_dummy_prefix`: a space)."""
    chat_template: ChatTemplate | None
    """How conversations become tokens; None for a tokenizer of plain text."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`; with `special`, the text of a special token becomes its id."""

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> list[Ids]:
        """Ids of each text; special tokens are ordinary text. `threads` 0: one per core, if the encoder has threads."""

    def encode_stream(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of `"".join(pieces)`, list by list, with bounded memory."""

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`, with `special` including special tokens; invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id; none for special tokens."""

    def text_changes(self, *, bytes_known: bool = True) -> str:
        """A sentence that says what decoding does not restore in any text; "" if encoding is lossless.

        `bytes_known`: whether the size of the original text is known, not only that of the decoded tokens.
        """

    def prompt_changes(self, prompt: str) -> str:
        """A sentence that says how encoding changes `prompt`; "" if it does not."""

    def with_chat_template(self, template: ChatTemplate) -> Tokenizer:
        """A copy with `template`, whose new special tokens get the ids after the last."""

    def save(self, directory: Path) -> None:
        """Write the files that `load_tokenizer` reads."""

    def fingerprint(self) -> str:
        """sha256 of everything that determines the encoding."""


class BaseTokenizer(ABC):
    """A table of bytes per id, and the methods that need only this table.

    A subclass defines how text is encoded (`encode_ordinary`), its saved form (`record`, `files`) and where a text may
    be cut (`find_cut`).
    """

    kind: str
    dummy_prefix = b""
    chat_template: ChatTemplate | None = None

    def __init__(self, table: Sequence[bytes], special_tokens: Mapping[str, int]) -> None:
        """`table[id]` are the bytes of an id; those of special tokens and of unused ids are empty."""
        self._table = list(table)
        self.vocab_size = len(self._table)
        self.special_tokens: Mapping[str, int] = dict(special_tokens)
        self.separator = next(iter(self.special_tokens.values()), None)
        self.stop_ids = frozenset(() if self.separator is None else (self.separator,))
        self._special = special_pattern(self.special_tokens)

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of `text`; the names of special tokens are ordinary text."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Everything that determines the encoding, as JSON values; large tables as their sha256."""

    def files(self) -> dict[str, bytes]:
        """The other files of the saved form: name -> content."""
        return {}

    def find_cut(self) -> FindCut:
        """The function that finds where a text can be cut without changing its ids (`cuts`)."""
        return last_safe_cut

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, the text of a special token becomes that token's id.

        Lone surrogates, which UTF-8 cannot express, are read as U+FFFD.
        """
        if not special or self._special is None:
            return self.encode_ordinary(text)
        ids: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            if index % 2:  # the pattern is one group, so its matches have odd indices
                ids.append(self.special_tokens[part])
            elif part:
                ids.extend(self.encode_ordinary(part))
        return ids

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> list[Ids]:
        """`encode_ordinary` of every text; subclasses use several `threads` if the encoder supports it."""
        return [np.array(self.encode_ordinary(text), dtype=np.uint32) for text in texts]

    def encode_stream(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of `"".join(pieces)`, list by list.

        Memory is bounded by the longest stretch without a safe cut (see `cuts`).
        """
        for chunk in chunks(pieces, self.find_cut()):
            yield self.encode_ordinary(chunk)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`. Special tokens are skipped, or written with `special`; invalid UTF-8 becomes U+FFFD."""
        names = {token_id: text for text, token_id in self.special_tokens.items()} if special else {}
        parts: list[str] = []
        ordinary: list[int] = []
        for token_id in ids:
            if token_id in names:
                parts += [self._decode_ordinary(ordinary), names[token_id]]
                ordinary = []
            else:
                ordinary.append(token_id)
        return "".join([*parts, self._decode_ordinary(ordinary)])

    def _decode_ordinary(self, ids: Iterable[int]) -> str:
        if self.dummy_prefix:
            stream = StreamDecoder(self)
            return "".join(map(stream.feed, ids)) + stream.finish()
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def text_changes(self, *, bytes_known: bool = True) -> str:
        """A sentence that says what decoding does not restore in any text; "" if encoding is lossless."""
        return ""

    def prompt_changes(self, prompt: str) -> str:
        """A sentence that says how encoding changes `prompt`; "" if it does not."""
        return ""

    def _without_special_tokens(self, text: str) -> str:
        return self._special.sub("", text) if self._special else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of an id: none for special tokens and for ids outside the vocabulary."""
        return self._table[token_id] if 0 <= token_id < self.vocab_size else b""

    def with_chat_template(self, template: ChatTemplate) -> Self:
        """A copy with `template`, whose new special tokens get the ids after the last."""
        extended = copy.copy(self)
        new = [name for name in template.special_tokens if name not in self.special_tokens]
        extended.special_tokens = {**self.special_tokens, **number_special_tokens(new, self.vocab_size)}
        extended._table = [*self._table, *([b""] * len(new))]
        extended.vocab_size = len(extended._table)
        extended.stop_ids = self.stop_ids | {extended.special_tokens[name] for name in template.end_tokens}
        extended._special = special_pattern(extended.special_tokens)
        extended.chat_template = template
        return extended

    def save(self, directory: Path) -> None:
        """Write the files that `load_tokenizer` reads into `directory`, the record last."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_atomic(directory / name, content)
        write_json(directory / RECORD, {"format_version": FORMAT_VERSION, **self._full_record()})

    def fingerprint(self) -> str:
        """sha256 of everything that determines the encoding."""
        return hashlib.sha256(json.dumps(self._full_record(), sort_keys=True).encode()).hexdigest()

    def _full_record(self) -> dict[str, Any]:
        template = {} if self.chat_template is None else {TEMPLATE: self.chat_template.to_record()}
        return {"kind": self.kind, **self.record(), **template}


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, lone surrogates replaced by U+FFFD, as in tiktoken."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
