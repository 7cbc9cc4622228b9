"""The documents in Parquet files, read whole or by row group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm.data.text.rows import OnEmpty
from llm.data.text.text_files import PARQUET_MAGIC, Document, OnReplaced, make_document, open_binary
from llm.errors import UserError, reason_of

TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")  # as pyarrow calls them


def read_parquet(
    path: Path,
    text_field: str,
    on_replaced: OnReplaced,
    row_groups: list[int] | None = None,
    on_empty: OnEmpty = lambda path, count: None,
) -> Iterator[Document]:
    """One document per row, read in batches, of all row groups or the given ones.

    Bytes that are not UTF-8 become U+FFFD. At the end `on_replaced` is called with their number and `on_empty` with
    the number of null rows.
    """
    with open_parquet(path, text_field) as table:
        batches = table.iter_batches(batch_size=256, row_groups=row_groups, columns=[text_field])
        yield from read_columns(path, (batch.column(0) for batch in batches), on_replaced, on_empty)


def read_columns(path: Path, columns: Iterable[Any], on_replaced: OnReplaced, on_empty: OnEmpty) -> Iterator[Document]:
    """One document per row of columns of text or bytes; the rest as `read_parquet`."""
    wrong = nulls = 0
    for column in columns:
        nulls += column.null_count
        for raw in byte_rows(column):
            text = raw.decode(errors="replace")
            wrong += text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
            yield from filter(None, [make_document(str(path), text)])
    on_replaced(path, max(0, wrong))
    on_empty(path, nulls)


def byte_rows(column: Any) -> Iterator[bytes]:
    """The rows of a column of text or bytes, as stored; b"" for null."""
    import pyarrow as arrow

    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (row or b"" for row in column.cast(arrow.large_binary()).to_pylist())


@contextmanager
def open_parquet(path: Path, text_field: str) -> Iterator[Any]:
    """A pyarrow ParquetFile that has the column, of text or of bytes; errors as of `open_table`."""
    with open_table(path) as table:
        check_column(path, table.schema_arrow, text_field)
        yield table


@contextmanager
def open_table(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile. Errors of pyarrow in the block become UserErrors that name the file."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        # A path of bytes: as text, pyarrow refuses a name that is not UTF-8.
        with arrow.OSFile(os.fsencode(path)) as file, parquet.ParquetFile(file) as table:
            yield table
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:  # the last: a damaged column name
        raise UserError(f"{path} cannot be read as Parquet ({reason_of(error)}); check the file.") from error


def check_column(path: Path, schema: Any, text_field: str) -> None:
    """UserError unless there is such a column of text or bytes; it names the columns that are."""
    if text_field not in schema.names:
        names = ", ".join(schema.names)
        raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
    given = schema.field(text_field).type
    if is_text_type(given) or str(given) == "null":  # a column with only null rows
        return
    others = ", ".join(field.name for field in schema if is_text_type(field.type))
    advice = f"set data.text_field to one of: {others}" if others else "give a file with text"
    raise UserError(f"The column {text_field!r} of {path} holds {given}, not text; {advice}.")


def is_text_type(kind: Any) -> bool:
    """Whether a pyarrow type, or the value type of a dictionary, is text or bytes."""
    return str(kind.value_type if str(kind).startswith("dictionary") else kind) in TEXT_TYPES


class RowGroup(NamedTuple):
    """Row group `number` of a file, with about `size_bytes` of text."""

    path: Path
    number: int
    size_bytes: int


@dataclass(frozen=True)
class RowGroups:
    """Row groups in order, and the name of their text column."""

    groups: tuple[RowGroup, ...]
    text_field: str

    @property
    def size_bytes(self) -> int:
        return sum(group.size_bytes for group in self.groups)

    def documents(self, number: int) -> Iterator[Document]:
        """The non-empty texts of one row group."""
        group = self.groups[number]
        return read_parquet(group.path, self.text_field, lambda path, count: None, [group.number])


class StreamedCorpus:
    """Parquet files to read during training: the row groups for training, and those for validation.

    The validation text is the last file, or the last `fraction` of the row groups of a single file; with `split` False
    there is none.
    """

    def __init__(self, name: str, paths: Sequence[Path], text_field: str, fraction: float, split: bool = True) -> None:
        self.name, self.paths = name, paths
        groups = [group for path in paths for group in list_row_groups(path, text_field)]
        validation = 0
        if split and len(paths) > 1:
            validation = sum(group.path == paths[-1] for group in groups)
        elif split:
            validation = max(1, round(fraction * len(groups)))
        if len(groups) <= validation:
            raise UserError(
                f"{name} has {len(groups)} row group, which leaves nothing to train on after the validation split; "
                "give a file with more, name another in data.validation, or set data.order to random."
            )
        cut = len(groups) - validation
        self.train = RowGroups(tuple(groups[:cut]), text_field)
        self.validation = RowGroups(tuple(groups[cut:]), text_field)

    def identity(self) -> list[str]:
        """What decides the text, without reading it: the column, and a digest of the footer and size of each file."""
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
    """sha256 of a Parquet file's size and footer, which has the offsets, sizes and statistics of all its parts."""
    with open_binary(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length, magic = file.read(4), file.read(4)
        if magic != PARQUET_MAGIC:
            raise UserError(f"{path} cannot be read as Parquet (it does not end with PAR1); check the file.")
        file.seek(max(0, size - 8 - int.from_bytes(length, "little")))
        return hashlib.sha256(b"%d " % size + file.read()).hexdigest()
