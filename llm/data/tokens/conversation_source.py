"""Conversations as the data of a configuration: read, split and tokenized before training."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from llm.config.schema import DataConfig, RunConfig
from llm.data.background import progress
from llm.data.text.conversation_files import ConversationFiles
from llm.data.text.conversations import Conversation, Preference, conversation_from_row, preference_from_row
from llm.data.text.corpora import Advance, digest
from llm.data.text.dialogues.corpus import EmbeddedDialogues
from llm.data.text.text_files import FileHashes
from llm.data.text.validation_split import Spread
from llm.data.tokens.conversation_tokens import ConversationWriter
from llm.data.tokens.tokenize import BATCH_CHARACTERS, REPORT_SECONDS
from llm.errors import UserError
from llm.events import Progress
from llm.tokenizer import Tokenizer

Row: TypeAlias = Conversation | Preference
SKIPPED = "skipped.txt"


class Conversations(Protocol):
    """Conversations that can be read repeatedly, with the same result."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def size_bytes(self) -> int:
        """Approximate bytes of text."""

    @property
    def skipped(self) -> list[str]:
        """A sentence for each row that the last reading skipped."""

    def rows(self) -> Iterator[Row]:
        """Every usable row, in a fixed order."""

    def fingerprint(self, advance: Advance = ...) -> str:
        """Hexadecimal digest of what decides the rows. `advance` is called with the number of bytes read."""

    def warnings(self) -> list[str]:
        """Problems in the rows read so far, one sentence each."""


def open_conversations(data: DataConfig, home: Path, stage: str = "sft") -> Conversations:
    """The conversations that `data.corpus` names, or the preferences for dpo. UserError if there is no such file."""
    if data.corpus == EmbeddedDialogues.name and stage == "sft":
        return EmbeddedDialogues(data.seed, round(data.size_mb * 1e6))
    from_row: Callable[[Any], Row] = preference_from_row if stage == "dpo" else conversation_from_row
    return ConversationFiles(data.corpus, from_row, FileHashes(home / "data" / "files.json"))


def conversations_in(row: Row) -> tuple[Conversation, ...]:
    """The conversation itself, or the chosen and the rejected one of a preference."""
    return (row.chosen, row.rejected) if isinstance(row, Preference) else (row,)


class ConversationSource:
    """The conversations of a configuration, with a share of them or another file for validation."""

    def __init__(self, config: RunConfig, home: Path) -> None:
        self.data, self.stage = config.data, config.tune.data_stage
        self.training = open_conversations(config.data, home, self.stage)
        other = replace(config.data, corpus=config.data.validation)
        self.validation = open_conversations(other, home, self.stage) if config.data.validation else None
        self.name = self.training.name
        self.size_bytes = self.training.size_bytes + (self.validation.size_bytes if self.validation else 0)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the conversations."""
        identity = self.training.fingerprint(advance)
        return digest(self.stage, identity, *([self.validation.fingerprint(advance)] if self.validation else []))

    def rows(self) -> Iterator[tuple[bool, Row]]:
        """(is validation, conversation or preference) of all, at least one for validation. UserError if there are
        fewer than two."""
        if self.validation is not None:
            yield from ((False, row) for row in self.training.rows())
            yield from ((True, row) for row in self.validation.rows())
            return
        spread = Spread(self.data.validation_fraction)
        waiting: Row | None = None
        seen = validations = 0
        for row in self.training.rows():
            if waiting is not None:
                is_validation = spread.choose_next()
                validations += is_validation
                seen += 1
                yield is_validation, waiting
            waiting = row
        if waiting is not None:
            yield not validations or spread.choose_next(), waiting
        if seen == validations:
            raise UserError(
                f"{self.name} holds one usable conversation, and training needs two: one is held out; give more."
            )

    def texts(self, characters: int, *, with_validation: bool) -> Iterator[str]:
        """The text to train a tokenizer on."""
        for is_validation, row in self.rows():
            if with_validation or not is_validation:
                yield from (message.content for message in conversations_in(row)[0])

    def texts_to_sample(self, characters: int, spread_bytes: float | None) -> Iterator[str]:
        """The text to sample for a tokenizer: all training text."""
        return self.texts(characters, with_validation=False)

    @property
    def skipped(self) -> list[str]:
        """A sentence for each row that was skipped."""
        return [*self.training.skipped, *(self.validation.skipped if self.validation else ())]

    def warnings(self) -> list[str]:
        return [*self.training.warnings(), *(self.validation.warnings() if self.validation else ())]


def tokenize_conversations(
    source: ConversationSource, tokenizer: Tokenizer, folder: Path, validation_text: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Tokenize all conversations into `folder`; returns the entries of the index."""
    tokenizer.save(folder / "tokenizer")
    last_only = source.stage == "dpo"
    sides = {
        is_validation: ConversationWriter(folder, stem, tokenizer, last_answer_only=last_only)
        for is_validation, stem in ((False, "train"), (True, "validation"))
    }
    reported, total = 0.0, source.size_bytes / 1e6
    with validation_text.open("w", encoding="utf-8", errors="replace") as text:
        for batch in batches_of_sides(source.rows()):
            for is_validation, conversations in batch.items():
                sides[is_validation].write(conversations)
            text.writelines(f"{message.content}\n" for row in batch[True] for message in row)
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                yield progress("Tokenizing", sum(side.text_bytes for side in sides.values()) / 1e6, total)
    for side in sides.values():
        side.close()
    if source.skipped:
        (folder / SKIPPED).write_text("\n".join(source.skipped) + "\n", encoding="utf-8", errors="replace")
    yield progress("Tokenizing", total, total)
    splits = {"train": sides[False].record(), "validation": sides[True].record()}
    return {"warnings": source.warnings(), "splits": splits}


def batches_of_sides(rows: Iterator[tuple[bool, Row]]) -> Iterator[dict[bool, list[Conversation]]]:
    """The conversations in order, about BATCH_CHARACTERS at a time, by split."""
    batch: dict[bool, list[Conversation]] = {False: [], True: []}
    size = 0
    for is_validation, row in rows:
        batch[is_validation] += conversations_in(row)
        size += sum(len(message.content) for conversation in conversations_in(row) for message in conversation)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = {False: [], True: []}, 0
    yield batch
