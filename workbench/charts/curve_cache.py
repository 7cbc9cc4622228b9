"""A cache of what was read of a long event log, in the run directory: curves as arrays, other events as log lines.

A cache that is damaged, of another format or made from another log is ignored. Nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llm.events import Event, finite, to_line
from llm.files import write_atomic
from llm.reader import WRONG_SHAPE, open_file, parse_json
from llm.run import Run
from llm.run.log import parse_event
from workbench.charts.curves import TABLES, RunCurves, RunMark

FORMAT = 4
NOT_NPY = (SyntaxError, tokenize.TokenError, MemoryError, RecursionError)  # numpy at a damaged header
NOT_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # the last for encrypted and unknown compression
MAX_HEAD_BYTES = 256 << 20  # samples and warnings of a whole run
WORTH_BYTES = 8 << 20  # a log shorter than this is read as quickly as its cache
FINGERPRINT_BYTES = 4096  # bytes of the log by which it is recognized
SINGLE = ("started", "progress", "last_step", "ranks", "finished")
"""The events that `RunCurves` keeps one of."""
SEVERAL = ("samples", "recent")


def cache_path(curves: RunCurves) -> Path:
    """The file of the cache."""
    return curves.run.path / ".cache" / "curves.npz"


def save_cache(curves: RunCurves) -> bool:
    """Write the cache if the log is long enough; returns whether it was written."""
    read = curves.lines.offset - len(curves.lines.rest)
    if read < WORTH_BYTES:
        return False
    path = cache_path(curves)
    buffer = io.BytesIO()
    try:
        head = head_of(curves, read)
        arrays: dict[str, Any] = {name: table.array() for name, table in curves.tables.items()}
        np.savez(buffer, head=np.frombuffer(head, dtype=np.uint8), **arrays)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError:  # a full or read-only disk
        return False
    return True


def load_cache(run: Run) -> RunCurves:
    """The curves of a run from its cache; empty ones without a cache."""
    curves = RunCurves(run)
    path = cache_path(curves)
    try:
        with open_file(path) as file, np.load(uncompressed(file), allow_pickle=False) as kept:
            head = parse_json(bytes(kept["head"]), MAX_HEAD_BYTES)
            if not belongs(head, curves):
                return curves
            restored = with_head(RunCurves(run), head)
            for name, table in restored.tables.items():
                table.extend(rows_of(kept[name]))
    except (OSError, *NOT_ZIP, *NOT_NPY, *WRONG_SHAPE):
        return curves
    return restored


def uncompressed(file: BinaryIO) -> BinaryIO:
    """The archive, rewound. Raises ValueError if it is compressed: a small file could take any amount of memory."""
    with zipfile.ZipFile(file) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("a compressed cache")
    file.seek(0)
    return file


def read_curves(run: Run, progress: Callable[[float], bool] = lambda share: True) -> RunCurves:
    """Read the whole log of a run, from its cache on, and update the cache. Call it in a thread."""
    curves = load_cache(run)
    is_new = curves.unread_bytes > WORTH_BYTES
    curves.catch_up(progress)
    if is_new:
        save_cache(curves)
    return curves


def head_of(curves: RunCurves, read: int) -> bytes:
    """Everything but the arrays, as JSON."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "columns": list(TABLES.values()),
        "read": read,
        "log": fingerprint(Path(curves.lines.path), read),
        "paused": curves.paused,
        "settings": curves.settings,
        "marks": [asdict(mark) for mark in curves.marks],
    }
    head |= {name: line_of(getattr(curves, name)) for name in SINGLE}
    head |= {name: [line_of(event) for event in getattr(curves, name)] for name in SEVERAL}
    return json.dumps(finite(head), allow_nan=False).encode()


def with_head(curves: RunCurves, head: dict[str, Any]) -> RunCurves:
    """`curves` with everything but the arrays restored from the cache."""
    curves.paused, curves.settings = bool(head["paused"]), dict(head["settings"])
    curves.marks = [RunMark(int(mark["step"]), str(mark["kind"]), str(mark["text"])) for mark in head["marks"]]
    for name in SINGLE:
        setattr(curves, name, event_of(head[name]))
    for name in SEVERAL:
        getattr(curves, name).extend(event for line in head[name] if (event := event_of(line)) is not None)
    curves.lines.offset = int(head["read"])
    return curves


def belongs(head: dict[str, Any], curves: RunCurves) -> bool:
    """Whether the cache is of this format and was made from this log."""
    columns = [list(names) for names in TABLES.values()]
    if head["format"] != FORMAT or head["columns"] != columns:
        return False
    return bool(head["log"] == fingerprint(Path(curves.lines.path), int(head["read"])))


def fingerprint(log: Path, read: int) -> str:
    """A digest of the beginning of a log, and of the bytes before position `read`."""
    with log.open("rb") as file:
        begin = file.read(FINGERPRINT_BYTES)
        file.seek(max(0, read - FINGERPRINT_BYTES))
        return hashlib.sha256(begin + file.read(min(read, FINGERPRINT_BYTES))).hexdigest()


def rows_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """The rows of a cached table. Raises ValueError for other arrays."""
    if values.ndim != 2 or values.dtype != np.float64:
        raise ValueError(f"not a table: {values.dtype} {values.shape}")
    return values


def line_of(event: Event | None) -> str | None:
    return None if event is None else to_line(event).decode("utf-8", "surrogatepass")


def event_of(line: str | None) -> Event | None:
    return None if line is None else parse_event(line.strip().encode("utf-8", "surrogatepass"))
