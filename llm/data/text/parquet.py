"""The documents in Parquet files; needs pyarrow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm.data.text.rows import Empty
from llm.data.text.text_files import PARQUET_MAGIC, Document, Replaced, document, opened
from llm.errors import UserError

TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")  # as pyarrow calls them


def read_parquet(
    path: Path,
    text_field: str,
    replaced: Replaced,
    row_groups: list[int] | None = None,
    empty: Empty = lambda path, count: None,
) -> Iterator[Document]:
    """One document per row, read in batches, of all row groups or those given.

    Bytes that are not UTF-8, in a column of text or of bytes, become U+FFFD, and `replaced` is called with their
    number; `empty` with that of the rows that hold null.
    """
    wrong = nulls = 0
    with open_parquet(path, text_field) as table:
        for batch in table.iter_batches(batch_size=256, row_groups=row_groups, columns=[text_field]):
            nulls += batch.column(0).null_count
            for raw in byte_rows(batch.column(0)):
                text = raw.decode(errors="replace")
                wrong += text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
                yield from filter(None, [document(str(path), text)])
    replaced(path, max(0, wrong))
    empty(path, nulls)


def byte_rows(column: Any) -> Iterator[bytes]:
    """The rows of a column of text or bytes, as they are stored; nothing where there is none."""
    import pyarrow as arrow

    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (row or b"" for row in column.cast(arrow.large_binary()).to_pylist())


@contextmanager
def open_parquet(path: Path, text_field: str) -> Iterator[Any]:
    """A pyarrow ParquetFile that has the column, of text or of bytes; whatever is wrong with it in the block is a
    UserError naming it."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow to be read; run: pip install 'llm-workbench[parquet]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            if text_field not in schema.names:
                names = ", ".join(schema.names)
                raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
            check_column(path, schema, text_field)
            yield table
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:  # the last: a damaged column name
        raise UserError(f"{path} cannot be read as Parquet ({error}); check the file.") from error


def check_column(path: Path, schema: Any, text_field: str) -> None:
    """UserError where a column holds neither text nor bytes; it names those that do."""
    given = schema.field(text_field).type
    if holds_text(given) or str(given) == "null":  # the type of a column that is null in every row
        return
    others = ", ".join(field.name for field in schema if holds_text(field.type))
    advice = f"set data.text_field to one that does: {others}" if others else "give a file that has some"
    raise UserError(f"The column {text_field!r} of {path} holds {given} and no text; {advice}.")


def holds_text(kind: Any) -> bool:
    """Whether a type of pyarrow's, or that of the values of a dictionary, is text or bytes that may be."""
    return str(kind.value_type if str(kind).startswith("dictionary") else kind) in TEXT_TYPES


class RowGroup(NamedTuple):
    """Row group `number` of a file; `size_bytes` of text, about."""

    path: Path
    number: int
    size_bytes: int


@dataclass(frozen=True)
class RowGroups:
    """Row groups in order, and the column their text is in."""

    groups: tuple[RowGroup, ...]
    text_field: str

    @property
    def size_bytes(self) -> int:
        return sum(group.size_bytes for group in self.groups)

    def documents(self, number: int) -> Iterator[Document]:
        """The texts of one row group; empty ones are left out."""
        group = self.groups[number]
        return read_parquet(group.path, self.text_field, lambda path, count: None, [group.number])


class StreamedCorpus:
    """Parquet files to be read while training: which row groups train, and which are tokenized before, for validation.

    The last file is held out; of a single one, the last share of its row groups.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], text_field: str, fraction: float, hold_out: bool = True
    ) -> None:
        self.name, self.paths = name, paths
        groups = [group for path in paths for group in list_row_groups(path, text_field)]
        held_out = 0
        if hold_out and len(paths) > 1:
            held_out = sum(group.path == paths[-1] for group in groups)
        elif hold_out:
            held_out = max(1, round(fraction * len(groups)))
        if len(groups) <= held_out:
            raise UserError(
                f"{name} has {len(groups)} row group, which leaves nothing to train on when some is held out; give a "
                "file with more, name another in data.validation, or set data.order to random."
            )
        cut = len(groups) - held_out
        self.train = RowGroups(tuple(groups[:cut]), text_field)
        self.held_out = RowGroups(tuple(groups[cut:]), text_field)

    def identity(self) -> list[str]:
        """What decides the text, without reading it: a digest of each file's footer and size, and the column."""
        return [self.train.text_field, *(footer_digest(path) for path in self.paths)]


def list_row_groups(path: Path, text_field: str) -> list[RowGroup]:
    with open_parquet(path, text_field) as table:
        metadata = table.metadata
        column = next((i for i, name in enumerate(metadata.schema.names) if name == text_field), 0)
        return [
            RowGroup(path, number, metadata.row_group(number).column(column).total_uncompressed_size)
            for number in range(metadata.num_row_groups)
        ]


def footer_digest(path: Path) -> str:
    """sha256 of a Parquet file's size and footer, which holds the offsets, sizes and statistics of all its parts."""
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length, magic = file.read(4), file.read(4)
        if magic != PARQUET_MAGIC:
            raise UserError(f"{path} cannot be read as Parquet (it does not end with PAR1); check the file.")
        file.seek(max(0, size - 8 - int.from_bytes(length, "little")))
        return hashlib.sha256(b"%d " % size + file.read()).hexdigest()
