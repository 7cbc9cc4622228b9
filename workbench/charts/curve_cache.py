"""What was read of a long event log, kept beside the run: the curves as plain arrays, and the rest as log lines.

It only saves reading the log again. Whoever finds it damaged, of another format, or made from another log, reads the
log; nothing in it is ever unpickled.
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
from workbench.charts.curves import CORE_COLUMNS, STEP_COLUMNS, VALIDATION_COLUMNS, RunCurves, RunMark, Table

FORMAT = 2
NOT_NPY = (SyntaxError, tokenize.TokenError, MemoryError, RecursionError)  # numpy at a damaged header
MAX_HEAD_BYTES = 256 << 20  # samples and warnings of a whole run
WORTH_BYTES = 8 << 20  # a log shorter than this is read as quickly as its cache
NEIGHBOURHOOD = 4096  # bytes of the log by which it is recognized
SINGLE = ("started", "progress", "last_step", "last_evaluation", "finished")  # events that `RunCurves` keeps one of
SEVERAL = ("samples", "recent")


def cache_path(curves: RunCurves) -> Path:
    """Where the curves of a run are kept."""
    return curves.run.path / ".cache" / "curves.npz"


def keep(curves: RunCurves) -> bool:
    """Write what `curves` has taken in, if that is worth it and the disk lets us; returns whether it was written."""
    read = curves.lines.offset - len(curves.lines.rest)
    if read < WORTH_BYTES:
        return False
    path = cache_path(curves)
    buffer = io.BytesIO()
    try:
        head = head_of(curves, read)
        np.savez(
            buffer,
            head=np.frombuffer(head, dtype=np.uint8),
            steps=curves.steps.array(),
            validation=curves.validation.array(),
            core=curves.core.array(),
        )
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError:  # a full or read-only disk: the next opening reads the log again
        return False
    return True


def recall(run: Run) -> RunCurves:
    """The curves of a run, as far as they were kept; nothing taken in yet where they were not."""
    curves = RunCurves(run)
    path = cache_path(curves)
    try:
        with open_file(path) as file, np.load(uncompressed(file), allow_pickle=False) as kept:
            head = parse_json(bytes(kept["head"]), MAX_HEAD_BYTES)
            if not belongs(head, curves):
                return curves
            steps, validation, core = (rows_of(kept[name]) for name in ("steps", "validation", "core"))
            restored = with_head(RunCurves(run), head)
        restored.steps = Table(STEP_COLUMNS, steps)
        restored.validation = Table(VALIDATION_COLUMNS, validation)
        restored.core = Table(CORE_COLUMNS, core)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, *NOT_NPY, *WRONG_SHAPE):
        return curves
    return restored


def uncompressed(file: BinaryIO) -> BinaryIO:
    """The archive, at its beginning. ValueError where it is compressed, as ours is not: a small file of another could
    take any amount of memory."""
    with zipfile.ZipFile(file) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("a compressed cache")
    file.seek(0)
    return file


def caught_up(run: Run, progress: Callable[[float], bool] = lambda share: True) -> RunCurves:
    """The curves of a run with all that its log has; kept, where much of that was new. For a thread."""
    curves = recall(run)
    is_new = curves.unread_bytes > WORTH_BYTES
    curves.catch_up(progress)
    if is_new:
        keep(curves)
    return curves


def head_of(curves: RunCurves, read: int) -> bytes:
    """Everything but the arrays, as JSON."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "columns": [STEP_COLUMNS, VALIDATION_COLUMNS, CORE_COLUMNS],
        "read": read,
        "log": fingerprint(Path(curves.lines.path), read),
        "paused": curves.paused,
        "knobs": curves.knobs,
        "marks": [asdict(mark) for mark in curves.marks],
    }
    head |= {name: line_of(getattr(curves, name)) for name in SINGLE}
    head |= {name: [line_of(event) for event in getattr(curves, name)] for name in SEVERAL}
    return json.dumps(finite(head), allow_nan=False).encode()


def with_head(curves: RunCurves, head: dict[str, Any]) -> RunCurves:
    """`curves` brought to where the cache was written, apart from the arrays."""
    curves.paused, curves.knobs = bool(head["paused"]), dict(head["knobs"])
    curves.marks = [RunMark(int(mark["step"]), str(mark["kind"]), str(mark["text"])) for mark in head["marks"]]
    for name in SINGLE:
        setattr(curves, name, event_of(head[name]))
    for name in SEVERAL:
        getattr(curves, name).extend(event for line in head[name] if (event := event_of(line)) is not None)
    curves.lines.offset = int(head["read"])
    return curves


def belongs(head: dict[str, Any], curves: RunCurves) -> bool:
    """Whether the cache is of this format and was made from this log."""
    columns = [list(names) for names in (STEP_COLUMNS, VALIDATION_COLUMNS, CORE_COLUMNS)]
    if head["format"] != FORMAT or head["columns"] != columns:
        return False
    return bool(head["log"] == fingerprint(Path(curves.lines.path), int(head["read"])))


def fingerprint(log: Path, read: int) -> str:
    """Recognises a log by how it begins, and by what stands before the byte up to which it was read."""
    with log.open("rb") as file:
        begin = file.read(NEIGHBOURHOOD)
        file.seek(max(0, read - NEIGHBOURHOOD))
        return hashlib.sha256(begin + file.read(min(read, NEIGHBOURHOOD))).hexdigest()


def rows_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of a table as they were kept; ValueError where they are something else."""
    if values.ndim != 2 or values.dtype != np.float64:
        raise ValueError(f"not a table: {values.dtype} {values.shape}")
    return values


def line_of(event: Event | None) -> str | None:
    return None if event is None else to_line(event).decode("utf-8", "surrogatepass")


def event_of(line: str | None) -> Event | None:
    return None if line is None else parse_event(line.strip().encode("utf-8", "surrogatepass"))
