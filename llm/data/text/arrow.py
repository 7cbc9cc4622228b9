"""The documents in Arrow files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.data.text.parquet import check_column, read_columns
from llm.data.text.rows import OnEmpty
from llm.data.text.saved_datasets import FILE_MAGIC
from llm.data.text.text_files import Document, OnReplaced, open_binary
from llm.errors import UserError, reason_of


def read_arrow(
    path: Path, text_field: str, on_replaced: OnReplaced, on_empty: OnEmpty = lambda path, count: None
) -> Iterator[Document]:
    """One document per row, batch by batch, as `read_parquet`."""
    with open_arrow(path) as table:
        check_column(path, table.schema, text_field)
        place = table.schema.names.index(text_field)
        yield from read_columns(path, (batch.column(place) for batch in batches_of(table)), on_replaced, on_empty)


@contextmanager
def open_arrow(path: Path) -> Iterator[Any]:
    """A pyarrow reader of the streaming or the file format. Errors of pyarrow in the block become UserErrors that name
    the file."""
    import pyarrow as arrow

    try:
        with open_binary(path) as source:
            is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
            source.seek(0)
            yield arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as Arrow ({reason_of(error)}); check the file.") from error


def batches_of(table: Any) -> Iterator[Any]:
    """The record batches of a reader of either format."""
    if hasattr(table, "num_record_batches"):
        yield from (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        yield from table
