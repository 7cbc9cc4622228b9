"""Tokenization: a stream of text to token files."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from llm.data.background import progress
from llm.data.text.validation_split import Unit
from llm.data.tokens.encoders import Encoder, PendingIds
from llm.data.tokens.shards import SHARD_TOKENS, ShardWriter
from llm.data.tokens.token_files import ChunkWriter
from llm.events import Progress
from llm.tokenizer import Tokenizer
from llm.tokenizer.base import Ids, well_formed

BATCH_CHARACTERS = 1 << 20
REPORT_SECONDS = 0.1
Boundary = Literal["after", "before", "none"]
Batch = list[tuple[Unit, str]]


class SplitWriter:
    """Writes one split of a dataset: the shards, the size of the text in bytes, and optionally the text."""

    def __init__(
        self, folder: Path, stem: str, tokenizer: Tokenizer, text_path: Path | None = None, chunk_tokens: int = 0
    ) -> None:
        """`chunk_tokens` above 0: the chunk files of the CS336 lecture, in the subfolder `stem`."""
        vocab_size, vocabulary = tokenizer.vocab_size, tokenizer.fingerprint()
        self.shards: ShardWriter = (
            ChunkWriter(folder / stem, vocab_size=vocab_size, vocabulary=vocabulary, shard_tokens=chunk_tokens)
            if chunk_tokens
            else ShardWriter(folder, stem, vocab_size=vocab_size, vocabulary=vocabulary, shard_tokens=SHARD_TOKENS)
        )
        self.text_bytes = 0
        self._text: BinaryIO | None = open_text(text_path) if text_path else None

    @property
    def tokens(self) -> int:
        return self.shards.total

    def add_text(self, text: str) -> None:
        """Count a piece of text, and write it if there is a text file."""
        raw = well_formed(text).encode()
        self.text_bytes += len(raw)
        if self._text is not None:
            self._text.write(raw)

    def state(self) -> dict[str, Any]:
        """What `resume` needs to continue here, as plain JSON; what was written so far is then on disk."""
        if self._text is not None:
            self._text.flush()
            os.fsync(self._text.fileno())
        return {"shards": self.shards.state(), "bytes": self.text_bytes}

    def resume(self, state: Mapping[str, Any], advance: Callable[[int], object]) -> None:
        """Continue where a writer had `state`; arguments and errors as in `ShardWriter.resume`."""
        self.shards.resume(state["shards"], advance)
        self.text_bytes = int(state["bytes"])
        if self._text is not None:
            if self._text.seek(0, os.SEEK_END) < self.text_bytes:
                raise ValueError("the text is incomplete")
            self._text.seek(self.text_bytes)
            self._text.truncate()

    def close(self) -> None:
        self.shards.close()
        if self._text is not None:
            self._text.close()

    def record(self) -> dict[str, Any]:
        """The entry of this split in the index."""
        return {**self.shards.record(), "tokens": self.tokens, "bytes": self.text_bytes}


def open_text(path: Path) -> BinaryIO:
    """A file to write, with what it holds already."""
    return path.open("r+b" if path.exists() else "w+b")


class Borders(NamedTuple):
    """The ids before and after each document."""

    before: list[int]
    after: list[int]


def borders_of(tokenizer: Tokenizer, boundary: Boundary) -> Borders:
    """Where the separator token goes; nowhere if the tokenizer has none."""
    separator = [] if tokenizer.separator is None else [tokenizer.separator]
    return Borders(separator if boundary == "before" else [], separator if boundary == "after" else [])


def tokenize(
    units: Iterable[Unit],
    tokenizer: Tokenizer,
    encoder: Encoder,
    boundary: Boundary,
    train: SplitWriter,
    validation: SplitWriter,
    total_bytes: int,
    record: Callable[[int], object] = lambda units: None,
) -> Generator[Progress, None, None]:
    """Encode every unit to its split, with separator tokens between documents; close everything.

    `record` is called with the number of units written whenever shards have been completed and no unit is half written.
    """
    borders = borders_of(tokenizer, boundary)
    reported, finished = 0.0, train.shards.finished + validation.shards.finished
    try:
        for written in encode_units(units, tokenizer, encoder, borders, {False: train, True: validation}):
            if written is not None and train.shards.finished + validation.shards.finished > finished:
                finished = train.shards.finished + validation.shards.finished
                record(written)
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                yield progress("Tokenizing", (train.text_bytes + validation.text_bytes) / 1e6, total_bytes / 1e6)
    finally:
        encoder.close()
        train.close()
        validation.close()
    yield progress("Tokenizing", total_bytes / 1e6, total_bytes / 1e6)


def encode_units(
    units: Iterable[Unit], tokenizer: Tokenizer, encoder: Encoder, borders: Borders, sides: dict[bool, SplitWriter]
) -> Iterator[int | None]:
    """Encode and write everything in order; yields after each part of bounded size: the number of units written so far,
    or None in the middle of one.

    Texts in memory go to the encoder in batches, up to `encoder.depth` ahead; long ones are encoded as a stream.
    """
    pending: deque[tuple[Batch, PendingIds]] = deque()
    written = 0

    def write_oldest() -> int:
        batch, ids = pending.popleft()
        write_batch(batch, ids, borders, sides)
        return len(batch)

    for batch, long in group_units(units):
        pending.append((batch, encoder.submit([text for _, text in batch])))
        while len(pending) > (0 if long else encoder.depth):
            written += write_oldest()
            yield written
        if long:
            yield from write_stream(long, tokenizer, borders, sides[long.is_validation])
            written += 1
            yield written
    while pending:
        written += write_oldest()
        yield written


def group_units(units: Iterable[Unit]) -> Iterator[tuple[Batch, Unit | None]]:
    """Batches of texts in memory, each followed by a unit to read as a stream, or None."""
    batch: Batch = []
    characters = 0
    for unit in units:
        in_memory = isinstance(unit.pieces, tuple)
        if in_memory:
            batch.append((unit, "".join(unit.pieces)))
            characters += len(batch[-1][1])
        if not in_memory or characters >= BATCH_CHARACTERS:
            yield batch, None if in_memory else unit
            batch, characters = [], 0
    yield batch, None


def write_batch(batch: Batch, pending: PendingIds, borders: Borders, sides: dict[bool, SplitWriter]) -> None:
    """Write whole texts, in order within each split."""
    before, after = (np.array(ids, dtype=np.uint32) for ids in borders)
    parts: dict[bool, list[Ids]] = {False: [], True: []}
    for (unit, text), encoded in zip(batch, pending(), strict=True):
        sides[unit.is_validation].add_text(text)
        parts[unit.is_validation] += [before] * unit.starts_document + [encoded] + [after] * unit.ends_document
    for is_validation, ids in parts.items():
        if ids:
            sides[is_validation].shards.write(np.concatenate(ids))


def write_stream(unit: Unit, tokenizer: Tokenizer, borders: Borders, side: SplitWriter) -> Iterator[None]:
    """Encode one long text piece by piece."""

    def counted_pieces() -> Iterator[str]:
        for piece in unit.pieces:
            side.add_text(piece)
            yield piece

    side.shards.write(borders.before if unit.starts_document else [])
    for ids in tokenizer.encode_stream(counted_pieces()):
        side.shards.write(ids)
        yield
    side.shards.write(borders.after if unit.ends_document else [])
