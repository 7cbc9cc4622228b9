"""The documents in Arrow files, and the folders that `save_to_disk` of Hugging Face's `datasets` writes.

Such a folder holds `data-00000-of-00001.arrow`, … in Arrow's streaming format, beside `state.json` and
`dataset_info.json`; one of several splits holds `dataset_dict.json` and a folder for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.data.text.parquet import byte_rows, check_column
from llm.data.text.rows import OnEmpty
from llm.data.text.text_files import Document, OnReplaced, make_document
from llm.errors import UserError

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
SUFFIX = ".arrow"
ABOUT = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
TRAIN = "train"


def is_arrow(name: str, beginning: bytes) -> bool:
    """Whether a file with this name and beginning is read as Arrow."""
    return Path(name).suffix.lower() == SUFFIX or beginning.startswith(FILE_MAGIC)


def train_split(folder: Path) -> Path:
    """The folder of the training split if `folder` holds a saved data set of several splits, else `folder` itself."""
    split = folder / TRAIN
    return split if (folder / "dataset_dict.json").is_file() and split.is_dir() else folder


def is_about_data(path: Path) -> bool:
    """Whether a file describes a saved data set instead of holding its text."""
    return path.name in ABOUT and (path.name == "dataset_dict.json" or any(path.parent.glob(f"*{SUFFIX}")))


def read_arrow(
    path: Path, text_field: str, on_replaced: OnReplaced, on_empty: OnEmpty = lambda path, count: None
) -> Iterator[Document]:
    """One document per row, batch by batch, as `read_parquet`."""
    wrong = nulls = 0
    with open_arrow(path) as table:
        if text_field not in table.schema.names:
            names = ", ".join(table.schema.names)
            raise UserError(f"{path} has no column {text_field!r}; set data.text_field to one of: {names}.")
        check_column(path, table.schema, text_field)
        for batch in batches_of(table):
            column = batch.column(table.schema.names.index(text_field))
            nulls += column.null_count
            for raw in byte_rows(column):
                text = raw.decode(errors="replace")
                wrong += text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
                yield from filter(None, [make_document(str(path), text)])
    on_replaced(path, max(0, wrong))
    on_empty(path, nulls)


@contextmanager
def open_arrow(path: Path) -> Iterator[Any]:
    """A pyarrow reader of the streaming or the file format. Errors of pyarrow in the block become UserErrors that name
    the file."""
    import pyarrow as arrow

    try:
        with arrow.OSFile(str(path)) as source:
            is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
            source.seek(0)
            yield arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as Arrow ({error}); check the file.") from error


def batches_of(table: Any) -> Iterator[Any]:
    """The record batches of a reader of either format."""
    if hasattr(table, "num_record_batches"):
        yield from (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        yield from table
