"""The documents in Parquet files; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.data.text.rows import Empty
from llm.data.text.textfiles import Document, Replaced, document
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
    with opened_parquet(path, text_field) as table:
        for batch in table.iter_batches(batch_size=256, row_groups=row_groups, columns=[text_field]):
            nulls += batch.column(0).null_count
            for raw in rows_of_bytes(batch.column(0)):
                text = raw.decode(errors="replace")
                wrong += text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
                yield from filter(None, [document(str(path), text)])
    replaced(path, max(0, wrong))
    empty(path, nulls)


def rows_of_bytes(column: Any) -> Iterator[bytes]:
    """The rows of a column of text or bytes, as they are stored; nothing where there is none."""
    import pyarrow as arrow

    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (row or b"" for row in column.cast(arrow.large_binary()).to_pylist())


@contextmanager
def opened_parquet(path: Path, text_field: str) -> Iterator[Any]:
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
    except (OSError, arrow.ArrowException) as error:
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
