"""The interface of all tokenizers (`Tokenizer`), and their common base (`BaseTokenizer`).

Every id stands for bytes, a special token for none. Decoding joins the bytes and reads them as UTF-8, so an id may be a
part of a character. The kinds differ only in how they encode.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from llm.errors import WrongUse
from llm.files import write_atomic, write_json
from llm.tokenizer.chat_template import ChatTemplate
from llm.tokenizer.cuts import FindCut, chunks, last_safe_cut
from llm.tokenizer.saved import FORMAT_VERSION, RECORD, TEMPLATE
from llm.tokenizer.stream import StreamDecoder

Progress = Callable[[float, float], None]
"""progress(done, total)."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    kind: str
    vocab_size: int
    special_tokens: Mapping[str, int]
    """Text of each special token -> its id."""
    separator: int | None
    """The id between documents: the first special token, None without one."""
    stop_ids: frozenset[int]
    """Ids that end a generated text."""
    dummy_prefix: bytes
    """Bytes that encoding adds before every text and decoding removes (SentencePiece: one space)."""
    chat_template: ChatTemplate | None
    """How conversations are written; None for a tokenizer of plain text."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`; with `special`, the text of a special token becomes its id."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; special tokens are ordinary text."""

    def encode_stream(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of `"".join(pieces)`, list by list, with bounded memory."""

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`, with `special` including special tokens; invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id; none for special tokens."""

    def text_changes(self, *, bytes_known: bool = True) -> str:
        """How encoding changes text, so that decoding does not restore it, as a sentence; "" where it is lossless."""

    def prompt_changes(self, prompt: str) -> str:
        """How encoding changes `prompt`, as a sentence; "" where it is lossless."""

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
        """Everything that determines the encoding, as JSON values; large tables by their sha256."""

    def files(self) -> dict[str, bytes]:
        """The other files of the saved form: name -> content."""
        return {}

    def find_cut(self) -> FindCut:
        """The function that finds where a text can be cut without changing its ids."""
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_ordinary` of every text, on several threads where the encoder allows it."""
        return [self.encode_ordinary(text) for text in texts]

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
        """What encoding does to any text so that it does not come back, in a sentence; "" where it does.

        `bytes_known`: whether the size of the original text is known, not only that of the decoded tokens.
        """
        return ""

    def prompt_changes(self, prompt: str) -> str:
        """How encoding changes `prompt`, as a sentence; "" where it is lossless."""
        return ""

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


def special_pattern(special_tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern with one group that matches a special token; None without any.

    Of two special tokens with the same beginning, the longer one matches. ValueError for text that UTF-8 cannot hold,
    which could not be saved.
    """
    for text in special_tokens:
        text.encode()
    alternatives = sorted(special_tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, alternatives)) + ")") if alternatives else None


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, lone surrogates replaced by U+FFFD.

    The rule of tiktoken, applied by all kinds.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def number_special_tokens(texts: Sequence[str], first_id: int) -> dict[str, int]:
    """Ids of special tokens in order, from `first_id` on. WrongUse for empty and repeated ones."""
    for position, text in enumerate(texts):
        if not text:
            raise WrongUse("A special token is empty; give it a text such as <|endoftext|>.")
        if text in texts[:position]:
            raise WrongUse(f"The special token {text!r} is listed twice; list each one once.")
    return {text: first_id + position for position, text in enumerate(texts)}
