"""A text that is being tokenized into a folder, and how it continues after it was interrupted or killed.

Whenever a shard is complete, a record of the position in the text is written to the folder, after everything before it
is on disk. What was written later is discarded; the finished dataset is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.data.background import count_megabytes, run_in_background
from llm.data.text.validation_split import Unit
from llm.data.tokens.dataset import VALIDATION_TEXT, load_split
from llm.data.tokens.encoders import Encoder
from llm.data.tokens.staging import UNFINISHED
from llm.data.tokens.token_files import decoded_bytes
from llm.data.tokens.tokenize import Boundary, SplitWriter, tokenize
from llm.data.tokens.train_tokenizer import TrainedTokenizer
from llm.errors import UserError
from llm.events import Progress
from llm.files import directory_size, write_json
from llm.reader import WRONG_SHAPE, load_json
from llm.tokenizer import load_tokenizer


class Tokenizing:
    """The writers of both splits, and how many `units` of the text they have written.

    With `chunk_tokens`, whose files have no headers to verify, nothing is recorded.
    """

    def __init__(self, folder: Path, trained: TrainedTokenizer, chunk_tokens: int = 0) -> None:
        self.folder, self.trained, self.tokenizer = folder, trained, trained.tokenizer
        self.is_recorded = not chunk_tokens
        self.units = 0
        self.train = SplitWriter(folder, "train", self.tokenizer, chunk_tokens=chunk_tokens)
        self.validation = SplitWriter(folder, "validation", self.tokenizer, folder / VALIDATION_TEXT, chunk_tokens)

    def tokenize(
        self, units: Iterable[Unit], encoder: Encoder, boundary: Boundary, total_bytes: int
    ) -> Generator[Progress, None, None]:
        """Write the `units` after those that are written, of a text of about `total_bytes`; closes everything."""
        yield from tokenize(
            units, self.tokenizer, encoder, boundary, self.train, self.validation, total_bytes, self.record
        )

    def record(self, written: int) -> None:
        """Record that `written` more units are written than at the start of this process."""
        if not self.is_recorded:
            return
        splits = {"train": self.train.state(), "validation": self.validation.state()}
        made = {"notes": self.trained.notes, "warnings": self.trained.warnings}
        write_json(self.folder / UNFINISHED, {"units": self.units + written} | splits | made)

    def resume(self, record: dict[str, Any], advance: Callable[[int], object]) -> None:
        """Continue from `record`; errors as in `SplitWriter.resume`."""
        self.units = int(record["units"])
        self.train.resume(record["train"], advance)
        self.validation.resume(record["validation"], advance)

    def index(self, warnings: list[str]) -> dict[str, Any]:
        """The entries of the dataset's index."""
        index: dict[str, Any] = {"warnings": self.trained.warnings + warnings, "notes": self.trained.notes}
        index["splits"] = {"train": self.train.record(), "validation": self.validation.record()}
        if self.tokenizer.text_changes():
            for name, record in index["splits"].items():
                record["spelled"] = decoded_bytes(load_split(self.folder, index, name, self.tokenizer), self.tokenizer)
        return index


def resume_tokenizing(folder: Path) -> Generator[Progress, None, Tokenizing | None]:
    """What an interrupted process has begun in `folder`, verified; None where that is nothing, or not intact."""
    with suppress(OSError, UserError, *WRONG_SHAPE):
        record = load_json(folder / UNFINISHED)
        trained = TrainedTokenizer(
            load_tokenizer(folder / "tokenizer"), list(record["notes"]), list(record["warnings"])
        )
        begun = Tokenizing(folder, trained)
        yield from run_in_background(
            lambda report: begun.resume(record, count_megabytes(report)),
            "Verifying what is tokenized already",
            directory_size(folder) / 1e6,
        )
        return begun
    return None


def skip_units(units: Iterable[Unit], count: int) -> Iterator[Unit]:
    """The units after the first `count`, whose text is read, since the next ones may follow in the same file."""
    for index, unit in enumerate(units):
        if index >= count:
            yield unit
            continue
        for _ in unit.pieces:
            pass
