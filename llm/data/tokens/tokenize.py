"""Text to token files, in a stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from llm.data.background import progress
from llm.data.text.validation_split import Unit
from llm.data.tokens.encoders import Encoder, Ids, Promise
from llm.data.tokens.shards import ShardWriter
from llm.data.tokens.token_files import ChunkWriter
from llm.events import Progress
from llm.tokenizer import Tokenizer
from llm.tokenizer.base import well_formed

BATCH_CHARACTERS = 1 << 20
REPORT_SECONDS = 0.1
Boundary = Literal["after", "before", "none"]
Batch = list[tuple[Unit, str]]


class SplitWriter:
    """One side of a data set being written: its shards, its text's size in bytes, and the text itself if wanted."""

    def __init__(
        self, folder: Path, stem: str, tokenizer: Tokenizer, text_path: Path | None = None, chunk_tokens: int = 0
    ) -> None:
        """`chunk_tokens` above 0 asks for the lecture's chunk files, in a folder of their own."""
        vocab_size, vocabulary = tokenizer.vocab_size, tokenizer.fingerprint()
        self.shards: ShardWriter = (
            ChunkWriter(folder / stem, vocab_size=vocab_size, vocabulary=vocabulary, shard_tokens=chunk_tokens)
            if chunk_tokens
            else ShardWriter(folder, stem, vocab_size=vocab_size, vocabulary=vocabulary)
        )
        self.text_bytes = 0
        self._text: BinaryIO | None = text_path.open("wb") if text_path else None

    @property
    def tokens(self) -> int:
        return self.shards.total

    def note_text(self, text: str) -> None:
        """Count a piece of text, and keep it if wanted."""
        raw = well_formed(text).encode()
        self.text_bytes += len(raw)
        if self._text is not None:
            self._text.write(raw)

    def close(self) -> None:
        self.shards.close()
        if self._text is not None:
            self._text.close()

    def record(self) -> dict[str, Any]:
        """What the index says of this split."""
        return {**self.shards.record(), "tokens": self.tokens, "bytes": self.text_bytes}


def tokenize(
    units: Iterable[Unit],
    tokenizer: Tokenizer,
    encoder: Encoder,
    boundary: Boundary,
    train: SplitWriter,
    validation: SplitWriter,
    total_bytes: int,
) -> Generator[Progress, None, None]:
    """Encode every unit to its side, with the separator token at the borders of documents; close all."""
    separator = [] if tokenizer.separator is None or boundary == "none" else [tokenizer.separator]
    borders = Borders(separator if boundary == "before" else [], separator if boundary == "after" else [])
    reported = 0.0
    try:
        for _ in encode_units(units, tokenizer, encoder, borders, {False: train, True: validation}):
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                yield progress("Tokenizing", (train.text_bytes + validation.text_bytes) / 1e6, total_bytes / 1e6)
    finally:
        encoder.close()
        train.close()
        validation.close()
    yield progress("Tokenizing", total_bytes / 1e6, total_bytes / 1e6)


class Borders(NamedTuple):
    """Ids put before and after each document."""

    before: list[int]
    after: list[int]


def encode_units(
    units: Iterable[Unit], tokenizer: Tokenizer, encoder: Encoder, borders: Borders, sides: dict[bool, SplitWriter]
) -> Iterator[None]:
    """Encode and write everything in order, pausing (yielding) after each stretch of bounded size.

    Texts at hand go to the encoder together, as many batches ahead as it can take; long ones are encoded as a stream.
    """
    pending: deque[tuple[Batch, Promise]] = deque()
    for batch, long in grouped(units):
        pending.append((batch, encoder.submit([text for _, text in batch])))
        while len(pending) > (0 if long else encoder.depth):
            write_batch(*pending.popleft(), borders, sides)
            yield
        if long:
            yield from write_stream(long, tokenizer, borders, sides[long.held_out])
    while pending:
        write_batch(*pending.popleft(), borders, sides)
        yield


def grouped(units: Iterable[Unit]) -> Iterator[tuple[Batch, Unit | None]]:
    """Batches of texts that are at hand, each followed by a unit that must be read as a stream, or by None."""
    batch: Batch = []
    characters = 0
    for unit in units:
        at_hand = isinstance(unit.pieces, tuple)
        if at_hand:
            batch.append((unit, "".join(unit.pieces)))
            characters += len(batch[-1][1])
        if not at_hand or characters >= BATCH_CHARACTERS:
            yield batch, None if at_hand else unit
            batch, characters = [], 0
    yield batch, None


def write_batch(batch: Batch, promise: Promise, borders: Borders, sides: dict[bool, SplitWriter]) -> None:
    """Write whole texts; their order on each side is kept."""
    before, after = (np.array(ids, dtype=np.uint32) for ids in borders)
    parts: dict[bool, list[Ids]] = {False: [], True: []}
    for (unit, text), encoded in zip(batch, promise(), strict=True):
        sides[unit.held_out].note_text(text)
        parts[unit.held_out] += [before] * unit.begins + [encoded] + [after] * unit.ends
    for held_out, ids in parts.items():
        if ids:
            sides[held_out].shards.write(np.concatenate(ids))


def write_stream(unit: Unit, tokenizer: Tokenizer, borders: Borders, side: SplitWriter) -> Iterator[None]:
    """Encode one long text piece by piece."""

    def noted() -> Iterator[str]:
        for piece in unit.pieces:
            side.note_text(piece)
            yield piece

    side.shards.write(borders.before if unit.begins else [])
    for ids in tokenizer.encode_stream(noted()):
        side.shards.write(ids)
        yield
    side.shards.write(borders.after if unit.ends else [])
