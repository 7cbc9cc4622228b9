"""A run's curves as a table of comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from llm.errors import UserError
from llm.files import staging_path
from llm.run import Run
from workbench.services.curves import STEP_COLUMNS, RunCurves, Table

MEASURED = ("validation_loss", "perplexity", "bits_per_byte")
HEADINGS = (*STEP_COLUMNS, *MEASURED)
WHOLE = ("step", "tokens_seen", "memory_bytes")


def write_csv(run: Run, file: TextIO) -> int:
    """Write a heading and one line per logged or evaluated step, oldest first; returns the number of steps.

    Steps that a restart or a roll-back made void are left out. What was not measured, or not a number, is empty.
    """
    curves = RunCurves(run)
    while curves.poll():
        pass
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADINGS)
    count = 0
    for row in rows_of(curves):
        writer.writerow([text_of(name, row.get(name, np.nan)) for name in HEADINGS])
        count += 1
    return count


def save_csv(run: Run, target: Path) -> int:
    """Write the curves into a file that is there only when it is whole; returns the number of steps."""
    staging = staging_path(target)
    try:
        with staging.open("w", encoding="utf-8", newline="") as file:
            try:
                steps = write_csv(run, file)
            except BaseException:
                staging.unlink()
                raise
        staging.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); choose another place.") from error
    return steps


def rows_of(curves: RunCurves) -> Iterator[dict[str, float]]:
    """The steps, each with what was evaluated at it."""
    logged, evaluated = row_by_step(curves.steps), row_by_step(curves.validation)
    for step in sorted(logged.keys() | evaluated.keys()):
        row: dict[str, float] = {"step": step}
        if step in evaluated:
            place = evaluated[step]
            row |= {name: curves.validation[name][place] for name in ("elapsed", *MEASURED)}
        if step in logged:
            row |= {name: curves.steps[name][logged[step]] for name in STEP_COLUMNS}
        yield row


def row_by_step(table: Table) -> dict[float, int]:
    return {step: place for place, step in enumerate(table["step"].tolist())}


def text_of(name: str, value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if name in WHOLE and np.isfinite(value) else repr(float(value))
