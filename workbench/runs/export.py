"""The curves of a run as a CSV file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from llm.errors import UserError
from llm.files import staging_path
from llm.run import Run
from workbench.charts.curve_cache import read_curves
from workbench.charts.curves import STEP_COLUMNS, Array, RunCurves

VALIDATION_COLUMNS = ("validation_loss", "perplexity", "bits_per_byte")
HEADINGS = (*STEP_COLUMNS, *VALIDATION_COLUMNS)
INTEGER_COLUMNS = ("step", "tokens_seen", "memory_bytes")
ROWS_AT_ONCE = 1 << 14
MAX_INTEGER = 2.0**53  # from here on, float64 does not hold every integer

OnProgress = Callable[[float], object]


def write_csv(run: Run, file: TextIO, progress: OnProgress = lambda share: None) -> int:
    """Write a heading and one line per logged or evaluated step, oldest first; returns the number of steps.

    Steps that were repeated after a restart or rollback appear once. Missing values and NaN are empty. `progress` gets
    the share that is done, in [0, 1].
    """

    def read(share: float) -> bool:
        progress(share / 2)
        return True

    curves = read_curves(run, read)
    file.write(",".join(HEADINGS) + "\n")
    steps = np.union1d(curves.steps["step"], curves.validation["step"])
    for start in range(0, len(steps), ROWS_AT_ONCE):
        file.write(rows_text(columns_of(curves, steps[start : start + ROWS_AT_ONCE])))
        progress(0.5 + (start + ROWS_AT_ONCE) / len(steps) / 2)
    return len(steps)


def save_csv(run: Run, target: Path, progress: OnProgress = lambda share: None) -> int:
    """Write the curves to a file atomically; returns the number of steps. Raises `UserError` if that fails."""
    staging = staging_path(target)
    try:
        with staging.open("w", encoding="utf-8", newline="") as file:
            try:
                steps = write_csv(run, file, progress)
            except BaseException:
                staging.unlink()
                raise
        staging.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); choose another path.") from error
    return steps


def columns_of(curves: RunCurves, steps: Array) -> dict[str, Array]:
    """Column name → the values at `steps`, shape (steps,), NaN where nothing was measured."""
    columns = {name: np.full(len(steps), np.nan) for name in HEADINGS}
    for table, names in ((curves.validation, ("elapsed", *VALIDATION_COLUMNS)), (curves.steps, STEP_COLUMNS)):
        first, last = np.searchsorted(table["step"], (steps[0], steps[-1] + 1))
        places = np.searchsorted(steps, table["step"][first:last])
        for name in names:
            columns[name][places] = table[name][first:last]
    columns["step"] = steps
    return columns


def rows_text(columns: dict[str, Array]) -> str:
    """The columns as lines of CSV: the shortest numbers that read back exactly, nothing for NaN."""
    from pyarrow import BufferOutputStream, csv, table

    values = {name: integers(column) if name in INTEGER_COLUMNS else column for name, column in columns.items()}
    rows = table({name: arrow_array(values[name], ~np.isnan(column)) for name, column in columns.items()})
    stream = BufferOutputStream()
    csv.write_csv(rows, stream, csv.WriteOptions(include_header=False))
    text: str = stream.getvalue().to_pybytes().decode()
    return text


def arrow_array(values: NDArray[Any], is_valid: NDArray[np.bool_]) -> Any:
    """The values, null where not valid. pyarrow.array (26.0.1) would import pandas if it can: half a second."""
    from pyarrow import Array, float64, int64, py_buffer

    kind = int64() if values.dtype == np.int64 else float64()
    return Array.from_buffers(
        kind, len(values), [py_buffer(np.packbits(is_valid, bitorder="little")), py_buffer(values)]
    )


def integers(values: Array) -> NDArray[np.int64] | Array:
    """The values as integers, 0 for NaN; as they are where one is too large for that."""
    found = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return found.astype(np.int64) if (np.abs(found) < MAX_INTEGER).all() else values
