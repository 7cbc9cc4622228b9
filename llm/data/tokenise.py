"""Text to token files, in a stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from llm.data.background import progress
from llm.data.holdout import Unit
from llm.data.shards import ShardWriter
from llm.events import Progress
from llm.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
REPORT_SECONDS = 0.1
Boundary = Literal["after", "before", "none"]


class SplitWriter:
    """One side of a data set being written: its shards, its text's size in bytes, and the text itself if wanted."""

    def __init__(self, folder: Path, stem: str, tokenizer: Tokenizer, text_path: Path | None = None) -> None:
        self.shards = ShardWriter(folder, stem, vocab_size=tokenizer.vocab_size, vocabulary=tokenizer.fingerprint())
        self.text_bytes = 0
        self._text: BinaryIO | None = text_path.open("wb") if text_path else None

    @property
    def tokens(self) -> int:
        return self.shards.total

    def note_text(self, text: str) -> None:
        """Count a piece of text, and keep it if wanted."""
        raw = text.encode()
        self.text_bytes += len(raw)
        if self._text is not None:
            self._text.write(raw)

    def close(self) -> None:
        self.shards.close()
        if self._text is not None:
            self._text.close()

    def record(self) -> dict[str, Any]:
        """What the index says of this split."""
        return {"shards": self.shards.names, "tokens": self.tokens, "bytes": self.text_bytes}


def tokenise(
    units: Iterable[Unit],
    tokenizer: Tokenizer,
    boundary: Boundary,
    train: SplitWriter,
    validation: SplitWriter,
    total_bytes: int,
) -> Generator[Progress, None, None]:
    """Encode every unit to its side, with the separator token at the borders of documents, and close the writers."""
    separator = [] if tokenizer.separator is None or boundary == "none" else [tokenizer.separator]
    borders = Borders(separator if boundary == "before" else [], separator if boundary == "after" else [])
    reported = 0.0
    try:
        for _ in encode_units(units, tokenizer, borders, {False: train, True: validation}):
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                yield progress("Tokenising", (train.text_bytes + validation.text_bytes) / 1e6, total_bytes / 1e6)
    finally:
        train.close()
        validation.close()
    yield progress("Tokenising", total_bytes / 1e6, total_bytes / 1e6)


class Borders(NamedTuple):
    """Ids put before and after each document."""

    before: list[int]
    after: list[int]


def encode_units(
    units: Iterable[Unit], tokenizer: Tokenizer, borders: Borders, sides: dict[bool, SplitWriter]
) -> Iterator[None]:
    """Encode and write everything, pausing (yielding) after each stretch of bounded size.

    Texts at hand go to the tokenizer together, so that one with threads can use them; long ones go as a stream.
    """
    waiting: list[tuple[Unit, str]] = []
    characters = 0
    for unit in units:
        if isinstance(unit.pieces, tuple):
            waiting.append((unit, "".join(unit.pieces)))
            characters += len(waiting[-1][1])
            if characters < BATCH_CHARACTERS:
                continue
        write_batch(waiting, tokenizer, borders, sides)
        waiting, characters = [], 0
        if not isinstance(unit.pieces, tuple):
            yield from write_stream(unit, tokenizer, borders, sides[unit.held_out])
        yield
    write_batch(waiting, tokenizer, borders, sides)


def write_batch(
    waiting: Sequence[tuple[Unit, str]], tokenizer: Tokenizer, borders: Borders, sides: dict[bool, SplitWriter]
) -> None:
    """Encode whole texts together; their order on each side is kept."""
    ids: dict[bool, list[int]] = {False: [], True: []}
    for (unit, text), encoded in zip(waiting, tokenizer.encode_batch([text for _, text in waiting]), strict=True):
        sides[unit.held_out].note_text(text)
        side = ids[unit.held_out]
        side += borders.before if unit.begins else []
        side += encoded
        side += borders.after if unit.ends else []
    for held_out, tokens in ids.items():
        sides[held_out].shards.write(tokens)


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
